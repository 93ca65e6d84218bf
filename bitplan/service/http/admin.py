"""Tokens and the audit log, for admins."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi import Path as PathParameter
from pydantic import Field

from bitplan.schema.record import Record
from bitplan.service.http.answers import answer
from bitplan.service.http.caller import Admin
from bitplan.service.http.jobs import note
from bitplan.service.http.state import Parts
from bitplan.service.records import Scope, Token

DAY_S = 24 * 3600

router = APIRouter(tags=["admin"])


class TokenRequest(Record):
    """A token to be made."""

    name: str = Field(pattern=r"^[\w .@-]{1,100}$", description="Owner of the jobs it submits")
    scope: Scope
    days: float | None = Field(default=None, gt=0, le=36500, description="None: it stays good")


class NewToken(Record):
    """A token with its secret, which is shown this once."""

    token: Token
    secret: str


class Deed(Record):
    """Who did what, when, from where."""

    at: datetime
    actor: str
    action: str
    subject: str
    request_id: str
    address: str


@router.get("/v1/tokens", summary="List tokens", response_model=list[Token])
def list_tokens(service: Parts, caller: Admin) -> Response:
    """All tokens, without their secrets."""
    return answer(service.store.tokens.list())


@router.post("/v1/tokens", summary="Make a token", status_code=201, response_model=NewToken)
def create_token(wanted: TokenRequest, service: Parts, caller: Admin) -> Response:
    """The secret is in this answer and nowhere else."""
    expires_in_s = None if wanted.days is None else wanted.days * DAY_S
    token, secret = service.store.tokens.create(wanted.name, wanted.scope, expires_in_s)
    note(service, caller, "create token", f"{token.id} {token.name} {token.scope}")
    return answer(NewToken(token=token, secret=secret), 201)


@router.delete("/v1/tokens/{token_id}", summary="Revoke a token", response_model=Token)
def revoke_token(
    token_id: Annotated[str, PathParameter(pattern=r"^[0-9a-f]{1,32}$")],
    service: Parts,
    caller: Admin,
) -> Response:
    """It is of no use from now on."""
    token = service.store.tokens.revoke(token_id)
    service.known.forget()
    note(service, caller, "revoke token", f"{token.id} {token.name}")
    return answer(token)


@router.get("/v1/audit", summary="Who did what", response_model=list[Deed])
def audit(
    service: Parts, caller: Admin, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> Response:
    """The last deeds, newest first."""
    return answer([Deed(**vars(one)) for one in service.store.audit.list(limit)])
