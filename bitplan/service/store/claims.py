"""What workers do with jobs: take one up, say that they live, tell how far it is, end it.

A worker has a job for as long as its lease runs, which every beat makes longer. Each time that a
job is taken up its attempt number rises, and whatever a worker writes names its attempt: one that
was thought dead and comes back changes nothing.
"""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, select, update

from bitplan.service.records import Artefact, Fault, Job, JobId, Progress, State
from bitplan.service.store import tables
from bitplan.service.store.database import Database
from bitplan.service.store.errors import LeaseLost
from bitplan.service.store.rows import change, jobs_of, state_data


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job in the hands of a worker."""

    job: Job
    attempt: int
    worker: str
    used_s: float
    """Seconds that earlier attempts have run."""


class Claims:
    """The workers' side of the jobs."""

    def __init__(self, database: Database, *, lease_s: float, most_deaths: int) -> None:
        self._database = database
        self._lease_s = lease_s
        self._most_deaths = most_deaths

    def claim(self, job_id: JobId, worker: str) -> Claim | None:
        """Take up a job that is queued; None when it is not, or another worker was first."""
        jobs, now = tables.jobs, time.time()
        with self._database.write() as connection:
            changed = change(
                connection,
                "state",
                state_data(State.RUNNING),
                jobs.c.id == job_id,
                jobs.c.state == State.QUEUED,
                state=State.RUNNING,
                attempt=jobs.c.attempt + 1,
                started_at=now,
                worker=worker,
                lease_until=self._database.now() + self._lease_s,
                progress=None,
            )
            if changed is None:
                return None
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one()
            (job,) = jobs_of(connection, [row])
        return Claim(job=job, attempt=row.attempt, worker=worker, used_s=row.used_s)

    def beat(self, claim: Claim, *, ran_s: float = 0) -> bool:
        """Make the lease longer; whether the job is to be cancelled. Raises `LeaseLost`.

        Args:
            claim: as `claim` gave it.
            ran_s: seconds that this attempt has run.
        """
        jobs = tables.jobs
        with self._database.write() as connection:
            row = connection.execute(
                update(jobs)
                .where(*_held(claim))
                .values(
                    lease_until=self._database.now() + self._lease_s,
                    used_s=claim.used_s + ran_s,
                )
                .returning(jobs.c.is_cancelling)
            ).one_or_none()
        if row is None:
            raise _lost(claim)
        return row.is_cancelling

    def tell(self, claim: Claim, kind: str, data: dict[str, Any]) -> None:
        """Append an event; the last progress is the job's. Raises `LeaseLost`."""
        values = {}
        if kind == "progress":
            values["progress"] = Progress.model_validate(data).model_dump_json()
        with self._database.write() as connection:
            if change(connection, kind, data, *_held(claim), **values) is None:
                raise _lost(claim)

    def add_artefact(self, claim: Claim, artefact: Artefact) -> None:
        """Note a file that the job made, in place of one of the same name. Raises `LeaseLost`."""
        made, job = tables.artefacts, claim.job
        data = artefact.model_dump(mode="json")
        with self._database.write() as connection:
            if change(connection, "artefact", data, *_held(claim)) is None:
                raise _lost(claim)
            connection.execute(
                delete(made).where(made.c.job == job.id, made.c.name == artefact.name)
            )
            connection.execute(
                insert(made).values(
                    job=job.id, owner=job.owner, created_at=time.time(), **artefact.model_dump()
                )
            )

    def finish(
        self, claim: Claim, state: State, fault: Fault | None = None, *, ran_s: float = 0
    ) -> bool:
        """End the job; False when this attempt has it no longer, and nothing is changed."""
        assert state.has_ended
        with self._database.write() as connection:
            changed = change(
                connection,
                "state",
                state_data(state, fault),
                *_held(claim),
                used_s=claim.used_s + ran_s,
                **_ended(state, fault),
            )
        return changed is not None

    def release(self, claim: Claim, *, ran_s: float = 0, reason: str | None = None) -> bool:
        """Give the job back, to be taken up again; False when this attempt has it no longer.

        With a reason the attempt counts as a death: after too many the job has failed.
        """
        jobs = tables.jobs
        with self._database.write() as connection:
            held = select(jobs).where(*_held(claim)).with_for_update()
            row = connection.execute(held).one_or_none()
            if row is None:
                return False
            self._free(connection, row, reason, used_s=claim.used_s + ran_s)
        return True

    def overdue(self) -> list[JobId]:
        """Free the jobs whose leases ran out; gives those that are queued again."""
        jobs = tables.jobs
        reason = "Its worker was heard of no more"
        with self._database.write() as connection:
            rows = connection.execute(
                select(jobs)
                .where(jobs.c.state == State.RUNNING, jobs.c.lease_until < self._database.now())
                .with_for_update(skip_locked=True)
            ).all()
            return [
                row.id for row in rows if self._free(connection, row, reason, used_s=row.used_s)
            ]

    def _free(self, connection: Any, row: Any, reason: str | None, *, used_s: float) -> bool:
        """Of a running job whose row is locked: whether it is queued again."""
        deaths = row.deaths + (reason is not None)
        state, fault = State.QUEUED, None
        if row.is_cancelling:
            state = State.CANCELLED
        elif deaths >= self._most_deaths:
            message = (
                f"The job was given up after its process had died {deaths} times. The last time: "
                f"{reason}. See the log, give it more memory, or try again."
            )
            state, fault = State.FAILED, Fault(kind="Died", message=message, is_input=False)
        jobs = tables.jobs
        which = (jobs.c.id == row.id, jobs.c.attempt == row.attempt)
        if reason is not None:
            change(connection, "log", {"level": "warning", "message": f"{reason}."}, *which)
        values = {"state": state, "lease_until": None, "worker": None}
        values |= _ended(state, fault) if state.has_ended else {}
        change(
            connection,
            "state",
            state_data(state, fault),
            *which,
            deaths=deaths,
            used_s=used_s,
            **values,
        )
        return state is State.QUEUED


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """That the attempt has its job still."""
    jobs = tables.jobs
    return (
        jobs.c.id == claim.job.id,
        jobs.c.attempt == claim.attempt,
        jobs.c.state == State.RUNNING,
    )


def _ended(state: State, fault: Fault | None) -> dict[str, Any]:
    return {
        "state": state,
        "fault": None if fault is None else fault.model_dump_json(),
        "ended_at": time.time(),
        "lease_until": None,
        "is_cancelling": False,
    }


def _lost(claim: Claim) -> LeaseLost:
    return LeaseLost(
        f"Attempt {claim.attempt} of job {claim.job.id} has it no longer: another took it up, or "
        "it has ended."
    )
