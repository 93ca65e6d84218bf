"""Answers that are not what was asked for, as errors that say what to do."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bitplan.errors import (
    AccessError,
    JobError,
    JobInputError,
    RefusedError,
    ServiceError,
    UnreachableError,
)
from bitplan.service.client.steps import Answer, Lost, Send
from bitplan.service.records import Job, State

M = TypeVar("M", bound=BaseModel)

TRY_LATER = frozenset({429, 502, 503, 504})
"""Statuses of a service that may well answer in a while."""

_TOKENS = (
    "Give the client token=..., the command line --token-file or BITPLAN_TOKEN; whoever runs the "
    "service makes one: bitplan token create NAME --scope submit."
)


def unreachable(server: str, lost: Lost) -> UnreachableError:
    """The error of a request without an answer."""
    advice = "Check the address, and that bitplan serve runs there."
    if lost.was_sent:
        advice = "It may have been done or not: look, and try again."
    return UnreachableError(f"The service at {server} does not answer: {lost.reason}. {advice}")


def check(server: str, sent: Send, answer: Answer) -> Answer:
    """The answer, if it is one of success; raises `ServiceError` of the kind that it tells."""
    status = answer.status
    if 200 <= status < 300:
        return answer
    problem = _problem(answer)
    if status < 400:
        there = answer.headers.get("location", "elsewhere")
        raise RefusedError(
            f"{server} redirects {sent} to {there}. Give the service's own address.", status=status
        )
    if problem is None and status < 500:
        kind = answer.headers.get("content-type", "no content type")
        raise RefusedError(
            f"{server} is not a bitplan service of this version, or something stands before it: "
            f"{sent} was answered {status}, {kind}. Check the address.",
            status=status,
        )
    problem = problem or {}
    request_id = str(problem.get("request_id") or answer.headers.get("x-request-id", ""))
    detail = str(problem.get("detail") or problem.get("title") or f"status {status}")
    where = {"status": status, "request_id": request_id}
    if status in (401, 403):
        raise AccessError(
            f"{_sentence(detail)} {_TOKENS if status == 401 else ''}".strip(), **where
        )
    if status == 429:
        asked = answer.headers.get("retry-after", "")
        when = f" Try again in {asked} s." if asked else ""
        raise ServiceError(f"{_sentence(detail)}{when}", **where)
    if status < 500:
        raise RefusedError(detail, **where)
    logged = f", logged as request {request_id}" if request_id else ""
    raise ServiceError(
        f"The service at {server} failed at {sent}: {_sentence(detail)} "
        f"That is its fault ({status}{logged}). Try again, or tell whoever runs it.",
        **where,
    )


def parse(server: str, sent: Send, answer: Answer, record: type[M]) -> M:
    """The record that an answer holds."""
    return read_record(server, str(sent), answer.body, record)


def read_record(server: str, what: str, text: bytes | str, record: type[M]) -> M:
    """A record of JSON; raises `ServiceError` where it is another."""
    try:
        return record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ServiceError(
            f"{server} answered {what} with what this bitplan cannot read ({place}: "
            f"{first['msg']}). Check the address, and that both have the same version."
        ) from None


def job_error(job: Job) -> JobError:
    """The error of a job that ended without success."""
    if job.state is State.CANCELLED:
        return JobError(f"Job {job.id} was cancelled. Try it again, or submit another.", job=job.id)
    if job.fault is None:
        return JobError(f"Job {job.id} failed. Its log tells more.", job=job.id)
    kind = JobInputError if job.fault.is_input else JobError
    message = f"Job {job.id} failed ({job.fault.kind}): {job.fault.message}"
    return kind(message, job=job.id, kind=job.fault.kind)


def _problem(answer: Answer) -> dict[str, Any] | None:
    if "json" not in answer.headers.get("content-type", ""):
        return None
    try:
        problem = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return problem if isinstance(problem, dict) and {"detail", "title"} & set(problem) else None


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
