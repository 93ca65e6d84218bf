"""Who asks: a bearer token, a session's cookie, or, where no token is needed, this machine."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import Depends, Request

from bitplan.service.http.problems import ProblemError
from bitplan.service.http.requests import address_of
from bitplan.service.http.state import Parts, Service
from bitplan.service.records import Scope, Token

log = logging.getLogger(__name__)

COOKIE = "bitplan_token"
LOCAL = "local"
"""Name of whoever asks without a token where none is needed."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whoever asks, and what that allows."""

    name: str
    scope: Scope
    token_id: str
    by: Literal["bearer", "cookie", "local"]
    address: str

    @property
    def owner(self) -> str | None:
        """Whose jobs it may see; None: everyone's."""
        return None if self.scope is Scope.ADMIN else self.name


async def caller_of(request: Request, service: Parts) -> Caller:
    """Who asks. Raises `ProblemError` 401, 403 or 429; counts the request against its rate."""
    caller = await _identify(request, service)
    request.state.caller = caller
    return caller


def needs(scope: Scope, rate: Literal["read", "submit"]) -> Callable[..., Awaitable[Caller]]:
    """A dependency: the caller, whose token must allow so much, counted against a rate."""

    async def check(caller: Annotated[Caller, Depends(caller_of)], service: Parts) -> Caller:
        if not caller.scope.allows(scope):
            raise ProblemError(
                403,
                f"The token {caller.name!r} has the scope {caller.scope}; this needs {scope}. Use "
                "another token: whoever runs the server makes them with bitplan token create.",
            )
        limit = service.rates.read if rate == "read" else service.rates.submit
        await service.rates.count(limit, rate, caller.token_id or caller.address)
        return caller

    return check


Reader = Annotated[Caller, Depends(needs(Scope.READ, "read"))]
Submitter = Annotated[Caller, Depends(needs(Scope.SUBMIT, "submit"))]
Admin = Annotated[Caller, Depends(needs(Scope.ADMIN, "read"))]


async def _identify(request: Request, service: Service) -> Caller:
    address = address_of(request.scope)
    secret, by = _secret(request)
    if secret is None:
        if service.token_required:
            raise _unauthorized("This needs a token: send Authorization: Bearer bpl_...")
        check_same_origin(request)
        return Caller(name=LOCAL, scope=Scope.ADMIN, token_id="", by="local", address=address)
    token = await good_token(secret, address, service)
    if by == "cookie":
        check_same_origin(request)
    return Caller(name=token.name, scope=token.scope, token_id=token.id, by=by, address=address)


async def good_token(secret: str, address: str, service: Service) -> Token:
    """The token of a secret. Raises `ProblemError`: 401 for a wrong one, 429 for too many of them.

    Only wrong ones are counted: behind a proxy all callers have its address, and one of them must
    not lock out the others.
    """
    token = await service.known.check(secret)
    if token is None:
        await service.rates.count(service.rates.wrong, "wrong tokens", address)
        log.warning("a wrong token came from %s", address)
        raise _unauthorized("The token is unknown, revoked or has expired. Get a new one.")
    return token


def _secret(request: Request) -> tuple[str | None, Literal["bearer", "cookie"]]:
    header = request.headers.get("authorization")
    if header is not None:
        kind, _, secret = header.partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise _unauthorized("The Authorization header is not: Bearer bpl_... Send that.")
        return secret.strip(), "bearer"
    return request.cookies.get(COOKIE), "cookie"


def check_same_origin(request: Request) -> None:
    """Refuse what another site's page has a browser send in its user's name.

    Browsers say where an unsafe request comes from; what is not a browser says nothing, and carries
    no one's cookies by itself.
    """
    if request.method in SAFE:
        return
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    ours = request.headers.get("host", "")
    if site not in (None, "same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != ours
    ):
        raise ProblemError(
            403, "That came from a page of another site. Use this server's own page, or a token."
        )


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(401, detail, headers={"WWW-Authenticate": "Bearer"})
