"""Where plans and tables come from: files, objects, jobs."""

from pathlib import Path

from bitplan.errors import RefusedError
from bitplan.schema import CostTable
from bitplan.service.records import Job


def read_table(table: CostTable | str | Path) -> CostTable:
    """A table, or that of a file."""
    return table if isinstance(table, CostTable) else CostTable.load(table)


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
