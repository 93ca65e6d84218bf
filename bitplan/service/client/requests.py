"""What a user asks for, as a request that is checked before it is sent."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from bitplan.errors import InputError
from bitplan.service.parameters import Allocate, Apply, Compress, Describe, Measure, Parameters
from bitplan.service.records import Job, JobRequest

KINDS: Mapping[str, type[Parameters]] = {
    "describe": Describe,
    "measure": Measure,
    "allocate": Allocate,
    "compress": Compress,
    "apply": Apply,
}
"""The kinds of jobs, and what each takes."""


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


def _fault(kind: str, error: ValidationError) -> str:
    """The first of the faults: which parameter, what it should be, and what it is."""
    first, *others = error.errors()
    place = [str(part) for part in first["loc"]]
    name = ".".join(place)
    more = f" ({len(others)} more are wrong.)" if others else ""
    if first["type"] == "extra_forbidden" and len(place) == 1:
        known = [field for field in KINDS[kind].model_fields if field != "kind"]
        return (
            f"A job of the kind {kind} takes no {name!r}. {_nearest(name, known)}"
            f"It takes {', '.join(known)}.{more}"
        )
    if first["type"] == "missing":
        return f"A job of the kind {kind} needs {name}. Give it.{more}"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{name}: {message}, but it is {first['input']!r}. Change it.{more}"


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""
