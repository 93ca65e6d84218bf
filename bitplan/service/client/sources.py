"""What is sent and from where: plans and tables of files, objects, jobs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitplan.errors import InputError, RefusedError
from bitplan.schema import CostTable, Plan
from bitplan.service.records import Job


def read_artefact(file: CostTable | Plan | str | Path) -> CostTable | Plan:
    """A table or plan, or that of a file. Raises `InputError` where it is neither."""
    if isinstance(file, CostTable | Plan):
        return file
    try:
        return CostTable.load(file)
    except InputError as error:
        try:
            return Plan.load(file)
        except InputError:
            raise error from None


def digest_in(job: Job, name: str) -> str:
    """The digest of a job's file. Raises `RefusedError` where it has none of this name."""
    for artefact in job.artefacts:
        if artefact.name == name:
            return artefact.digest
    made = ", ".join(each.name for each in job.artefacts) or "nothing"
    raise RefusedError(
        f"Job {job.id} has no {name}: it is {job.state}, of the kind {job.kind}, and has made "
        f"{made}. " + ("Choose another job." if job.state.has_ended else "Wait for it.")
    )


def json_body(content: Mapping[str, Any]) -> bytes:
    """The bytes of JSON. Raises `InputError` for what JSON has no form for."""
    try:
        return json.dumps(content, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"What is asked cannot be sent as JSON: {error}. Change it.") from None
