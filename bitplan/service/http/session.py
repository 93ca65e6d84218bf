"""Sessions of browsers: a token in a cookie that no script can read."""

from fastapi import APIRouter, Request, Response
from pydantic import Field

from bitplan.schema.record import Record
from bitplan.service.http.answers import answer
from bitplan.service.http.caller import COOKIE, Reader, check_same_origin, good_token
from bitplan.service.http.requests import address_of
from bitplan.service.http.state import Parts
from bitplan.service.records import Scope

router = APIRouter(tags=["session"])


class Me(Record):
    """Who you are here."""

    name: str
    scope: Scope
    token_required: bool


class Login(Record):
    """A token, to be kept in a cookie."""

    token: str = Field(min_length=1, max_length=200, json_schema_extra={"format": "password"})


@router.get("/v1/me", summary="Who you are here", response_model=Me)
async def me(service: Parts, caller: Reader) -> Response:
    """Name and scope of the token that you use."""
    return answer(Me(name=caller.name, scope=caller.scope, token_required=service.token_required))


@router.post("/v1/session", summary="Log in", status_code=200, response_model=Me)
async def log_in(login: Login, request: Request, service: Parts) -> Response:
    """Set a cookie that stands for a token, in browsers."""
    check_same_origin(request)
    token = await good_token(login.token, address_of(request.scope), service)
    response = answer(Me(name=token.name, scope=token.scope, token_required=service.token_required))
    response.set_cookie(
        COOKIE,
        login.token,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
        expires=token.expires_at,
    )
    return response


@router.delete("/v1/session", summary="Log out", status_code=204)
async def log_out(request: Request) -> Response:
    """Remove the cookie; the token itself stays good."""
    check_same_origin(request)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response
