"""The jobs: what people do with them here, what workers do in `claims`."""

import time
import uuid
from collections.abc import Collection
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, func, insert, select
from sqlalchemy.exc import IntegrityError

from bitplan.service.records import Event, Job, JobId, JobRequest, State
from bitplan.service.store import tables
from bitplan.service.store.database import Database
from bitplan.service.store.errors import KeyReused, NoSuchJob, NotRetryable
from bitplan.service.store.rows import append, change, event_of, jobs_of, state_data

# Within the class `list` is the method.
Events: TypeAlias = list[Event]


class Jobs:
    """Jobs with their events. An `owner` of None may see and do everything."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(
        self,
        request: JobRequest,
        *,
        owner: str,
        idempotency_key: str | None = None,
        request_id: str = "",
    ) -> tuple[Job, bool]:
        """A new job, and True; or the one that the key made before, and False.

        Raises `KeyReused` where the key made a job of another request.
        """
        text, job_id = request.model_dump_json(), uuid.uuid4().hex
        try:
            with self._database.write() as connection:
                known = self._of_key(connection, owner, idempotency_key)
                if known is None:
                    connection.execute(
                        insert(tables.jobs).values(
                            id=job_id,
                            owner=owner,
                            kind=request.parameters.kind,
                            state=State.QUEUED,
                            priority=request.priority,
                            request=text,
                            idempotency_key=idempotency_key,
                            request_id=request_id,
                            attempt=0,
                            events=1,
                            created_at=time.time(),
                            is_cancelling=False,
                            used_s=0.0,
                            deaths=0,
                        )
                    )
                    append(connection, job_id, 1, "state", state_data(State.QUEUED))
                    return self._one(connection, job_id, owner), True
        except IntegrityError:  # PostgreSQL: another had the same key at the same time
            with self._database.read() as connection:
                known = self._of_key(connection, owner, idempotency_key)
            if known is None:
                raise
        if known.request != text:
            raise KeyReused(
                f"The idempotency key {idempotency_key!r} was used for job {known.id}, whose "
                "request is another. Use a new key, or send the same request."
            )
        return self.get(known.id), False

    def get(self, job_id: JobId, *, owner: str | None = None) -> Job:
        """One job. Raises `NoSuchJob`."""
        with self._database.read() as connection:
            return self._one(connection, job_id, owner)

    def list(
        self,
        *,
        owner: str | None = None,
        states: Collection[State] = (),
        kinds: Collection[str] = (),
        limit: int = 50,
        before: JobId | None = None,
    ) -> list[Job]:
        """Jobs, newest first; those before another for the next page. Raises `NoSuchJob`."""
        jobs = tables.jobs
        query = select(jobs).order_by(jobs.c.number.desc()).limit(limit)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if states:
            query = query.where(jobs.c.state.in_(list(states)))
        if kinds:
            query = query.where(jobs.c.kind.in_(list(kinds)))
        with self._database.read() as connection:
            if before is not None:
                query = query.where(jobs.c.number < self._row(connection, before, owner).number)
            return jobs_of(connection, connection.execute(query).all())

    def cancel(self, job_id: JobId, *, owner: str | None = None) -> Job:
        """End a job that is queued, ask the worker of one that runs; what has ended stays so."""
        jobs = tables.jobs
        with self._database.write() as connection:
            row = self._row(connection, job_id, owner, lock=True)
            if row.state == State.QUEUED:
                change(
                    connection,
                    "state",
                    state_data(State.CANCELLED),
                    jobs.c.id == job_id,
                    state=State.CANCELLED,
                    ended_at=time.time(),
                )
            elif row.state == State.RUNNING and not row.is_cancelling:
                data = {"level": "info", "message": "Asked to stop."}
                change(connection, "log", data, jobs.c.id == job_id, is_cancelling=True)
            return self._one(connection, job_id, owner)

    def retry(self, job_id: JobId, *, owner: str | None = None) -> Job:
        """Queue a job again that failed or was cancelled; one that has not ended stays as it is.

        It goes on from what it has made, with all its time before it. Raises `NotRetryable`.
        """
        jobs = tables.jobs
        with self._database.write() as connection:
            row = self._row(connection, job_id, owner, lock=True)
            if row.state == State.SUCCEEDED:
                raise NotRetryable(
                    f"Job {job_id} has succeeded; the same again would give the same. Submit a new "
                    "one for something else."
                )
            if State(row.state).has_ended:
                change(
                    connection,
                    "state",
                    state_data(State.QUEUED),
                    jobs.c.id == job_id,
                    state=State.QUEUED,
                    started_at=None,
                    ended_at=None,
                    is_cancelling=False,
                    progress=None,
                    fault=None,
                    used_s=0.0,
                    deaths=0,
                )
            return self._one(connection, job_id, owner)

    def events(self, job_id: JobId, *, after: int = 0, limit: int = 500) -> Events:
        """What happened to a job after the event of a number, oldest first."""
        told = tables.events
        query = select(told).where(told.c.job == job_id, told.c.number > after)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(told.c.number).limit(limit)).all()
        return [event_of(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        jobs = tables.jobs
        query = select(jobs.c.state, func.count().label("jobs")).group_by(jobs.c.state)
        with self._database.read() as connection:
            found = {row.state: row.jobs for row in connection.execute(query)}
        return {state: found.get(state, 0) for state in State}

    def queued(self) -> dict[JobId, int]:
        """Priority of each job that waits for a worker, in the order of submission."""
        jobs = tables.jobs
        query = select(jobs.c.id, jobs.c.priority).where(jobs.c.state == State.QUEUED)
        with self._database.read() as connection:
            return {
                row.id: row.priority for row in connection.execute(query.order_by(jobs.c.number))
            }

    def _of_key(self, connection: Connection, owner: str, key: str | None) -> Row[Any] | None:
        jobs = tables.jobs
        if key is None:
            return None
        query = select(jobs).where(jobs.c.owner == owner, jobs.c.idempotency_key == key)
        return connection.execute(query).one_or_none()

    def _row(
        self, connection: Connection, job_id: JobId, owner: str | None, *, lock: bool = False
    ) -> Row[Any]:
        query = select(tables.jobs).where(tables.jobs.c.id == job_id)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None or owner not in (None, row.owner):
            raise NoSuchJob(f"There is no job {job_id}. See the list of jobs.")
        return row

    def _one(self, connection: Connection, job_id: JobId, owner: str | None) -> Job:
        return jobs_of(connection, [self._row(connection, job_id, owner)])[0]
