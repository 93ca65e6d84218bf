"""Every error as problem+json (RFC 9457): what is, what was needed, what to do; no traceback."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bitplan.errors import BitplanError, InputError, InternalError, OutputError
from bitplan.schema.record import Record
from bitplan.service.context import request_id
from bitplan.service.store.errors import (
    KeyReused,
    NoSuchArtefact,
    NoSuchJob,
    NoSuchToken,
    NotRetryable,
    StoreUnavailable,
)

MEDIA_TYPE = "application/problem+json"


class Wrong(Record):
    """One thing that is wrong in a request."""

    where: str = Field(description="As body.parameters.budget_gb")
    message: str


class Problem(Record):
    """What went wrong, as RFC 9457 has it."""

    type: str = Field(description="A URN that names the kind of problem")
    title: str
    status: int
    detail: str = Field(description="What is, what was needed, what to do")
    request_id: str = Field(description="To be quoted to whoever runs the server")
    errors: tuple[Wrong, ...] = Field(default=(), description="Of a request that is not valid")


class ProblemError(Exception):
    """Answer with a problem."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str | None = None,
        errors: Iterable[Wrong] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.kind = status, detail, kind
        self.errors, self.headers = tuple(errors), dict(headers or {})

    @property
    def response(self) -> Response:
        """What is sent."""
        title, kind = TITLES.get(self.status, ("Error", "error"))
        problem = Problem(
            type=f"urn:bitplan:problem:{self.kind or kind}",
            title=title,
            status=self.status,
            detail=self.detail,
            request_id=request_id(),
            errors=self.errors,
        )
        text = problem.model_dump_json(exclude_defaults=True)
        return Response(text, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def problem_of(error: BitplanError) -> ProblemError:
    """What the library or the store refuses, as it is answered."""
    if isinstance(error, OutputError):
        return cannot_keep()
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)
    return ProblemError(status, str(error), kind=type(error).__name__)


def cannot_keep() -> ProblemError:
    """A file could not be written: which one is not for whoever asked."""
    return ProblemError(
        503,
        "The server cannot keep this: its disk is full, or not writable. Try again when whoever "
        "runs the server has freed some space.",
    )


def unexpected() -> ProblemError:
    """A fault of our own: what it was is in the log, under the request's id."""
    return ProblemError(
        500,
        "The server made a mistake. Try again; if it stays, give whoever runs the server this "
        "request's id: the log says more.",
    )


def add_handlers(app: FastAPI) -> None:
    """Make an app answer every error with a problem."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return error.response

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, BitplanError)
        if isinstance(error, InternalError):
            raise error  # it is logged with its traceback, and answered as any fault is
        return problem_of(error).response

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = _DETAILS.get(error.status_code, str(error.detail))
        return ProblemError(error.status_code, detail, headers=error.headers).response

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem_of_validation(error.errors()).response

    app.add_exception_handler(ProblemError, known)
    app.add_exception_handler(BitplanError, refused)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, invalid)


def problem_of_validation(errors: Iterable[Mapping[str, Any]]) -> ProblemError:
    """What pydantic found. What was given is not repeated: it may be a secret, or large."""
    errors = list(errors)[:MOST_ERRORS]
    if any(error["type"] == "json_invalid" for error in errors):
        reason = str(errors[0].get("ctx", {}).get("error", "")).rstrip(".")
        return ProblemError(400, f"The body is not JSON: {reason}. Send UTF-8 JSON.")
    wrong = [
        Wrong(
            where=".".join(str(part)[:100] for part in error["loc"])[:300],
            message=printable(error["msg"].removeprefix("Value error, "))[:1000],
        )
        for error in errors
    ]
    first = f"{wrong[0].where}: {wrong[0].message}" if wrong else "it is not valid"
    return ProblemError(
        422, f"The request cannot be used: {first.rstrip('.')}. Correct it.", errors=wrong
    )


def printable(text: str) -> str:
    """The text, with what UTF-8 cannot have replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


MOST_ERRORS = 20

STATUSES: Mapping[type[BitplanError], int] = {
    NoSuchJob: 404,
    NoSuchArtefact: 404,
    NoSuchToken: 404,
    KeyReused: 422,
    NotRetryable: 409,
    StoreUnavailable: 503,
    InputError: 422,
}

TITLES: Mapping[int, tuple[str, str]] = {
    400: ("The request cannot be read", "malformed"),
    401: ("A token is needed", "unauthorized"),
    403: ("Not allowed", "forbidden"),
    404: ("Not found", "not-found"),
    405: ("Not that method", "method-not-allowed"),
    408: ("Too slow", "timeout"),
    409: ("Not in this state", "conflict"),
    413: ("Too large", "too-large"),
    416: ("Not that range", "range"),
    415: ("Not that kind of content", "unsupported-media-type"),
    421: ("Not that host", "misdirected"),
    422: ("The request cannot be used", "invalid"),
    429: ("Too many requests", "rate-limited"),
    500: ("A fault of the server", "internal"),
    503: ("Not now", "unavailable"),
    504: ("The time was up", "time-limit"),
}

_DETAILS: Mapping[int, str] = {
    400: "The body cannot be read: it is nested too deeply, or has numbers too long, or is not "
    "UTF-8. Send plain JSON.",
    404: "There is nothing here. /openapi.json lists what there is.",
    405: "This address does not take that method. /openapi.json lists those that it takes.",
}
