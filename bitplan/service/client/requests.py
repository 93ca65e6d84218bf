"""What a user asks for, as a request that is checked before it is sent."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from bitplan.errors import InputError
from bitplan.service.parameters import KINDS
from bitplan.service.records import Job, JobRequest


def make_request(kind: str, parameters: Mapping[str, Any], **how: Any) -> JobRequest:
    """A job's request of its kind, its parameters, and how it is to be run.

    Raises `InputError` for an unknown kind, and for parameters that are unknown, missing or of
    another form.
    """
    if kind not in KINDS:
        raise InputError(
            f"There is no job of the kind {kind!r}. {_nearest(kind, KINDS)}"
            f"Choose one of {', '.join(KINDS)}."
        )
    try:
        made = KINDS[kind].model_validate({**parameters, "kind": kind})
        return JobRequest.model_validate({"parameters": made, **how})
    except ValidationError as error:
        raise InputError(_fault(kind, error)) from None


def job_id(job: Job | str) -> str:
    """A job's id. Raises `InputError` for a text that is none."""
    text = job.id if isinstance(job, Job) else job.strip()
    if not re.fullmatch("[0-9a-f]{32}", text):
        raise InputError(
            f"{text!r} is no job's id, which has 32 digits of 0-9 and a-f. Copy it from what "
            "submit or the list of jobs says."
        )
    return text


def key_of(given: str | None) -> str:
    """The key of a submission; one of its own where none is given. Raises `InputError`."""
    key = uuid4().hex if given is None else given
    if not re.fullmatch(r"[\x21-\x7e]{1,200}", key):
        raise InputError(
            f"{key!r} cannot be a key. Give 1 to 200 characters of ASCII, and no spaces."
        )
    return key


def _fault(kind: str, error: ValidationError) -> str:
    """One of the faults: which parameter, what it should be, and what it is."""
    # A name with a slip in it is unknown, and another one missing: what is unknown says more.
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    first, *others = faults
    place = [str(part) for part in first["loc"]]
    name = ".".join(place)
    more = f" ({len(others)} more to change.)" if others else ""
    if first["type"] == "extra_forbidden":
        known = _fields(KINDS[kind], place[:-1])
        there = f"In {'.'.join(place[:-1])} it" if place[:-1] else "It"
        return (
            f"A job of the kind {kind} takes no {name!r}. {_nearest(place[-1], known)}"
            f"{there} takes {', '.join(known)}.{more}"
        )
    if first["type"] == "missing":
        return f"A job of the kind {kind} needs {name}. Give it.{more}"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{name}: {message}, but it is {first['input']!r}. Change it.{more}"


def _fields(record: type[BaseModel], place: Sequence[str]) -> list[str]:
    """The names that a record takes, or one at a place in it."""
    for name in place:
        field = record.model_fields.get(name)
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        record = kind
    return [name for name in record.model_fields if name != "kind"]


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""
