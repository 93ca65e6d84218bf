"""Rows of the tables as records, and events appended to a job."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from bitplan.service.records import Artefact, Event, Fault, Job, JobRequest, Progress, State
from bitplan.service.store import tables


def moment(seconds: float) -> datetime:
    """The time of a number in a table."""
    return datetime.fromtimestamp(seconds, UTC)


def perhaps_moment(seconds: float | None) -> datetime | None:
    """Likewise, where there may be none."""
    return None if seconds is None else moment(seconds)


def jobs_of(connection: Connection, rows: Sequence[Row[Any]]) -> list[Job]:
    """Jobs of rows of their table, with their artefacts."""
    made = tables.artefacts
    names = [row.id for row in rows]
    found: dict[str, list[Artefact]] = {name: [] for name in names}
    query = select(made).where(made.c.job.in_(names)).order_by(made.c.number)
    for row in connection.execute(query) if names else ():
        found[row.job].append(artefact_of(row))
    return [
        Job(
            id=row.id,
            request=JobRequest.model_validate_json(row.request),
            owner=row.owner,
            state=State(row.state),
            attempt=row.attempt,
            created_at=moment(row.created_at),
            started_at=perhaps_moment(row.started_at),
            ended_at=perhaps_moment(row.ended_at),
            is_cancelling=row.is_cancelling,
            progress=Progress.model_validate_json(row.progress) if row.progress else None,
            fault=Fault.model_validate_json(row.fault) if row.fault else None,
            artefacts=tuple(found[row.id]),
        )
        for row in rows
    ]


def artefact_of(row: Row[Any]) -> Artefact:
    """An artefact of a row of its table."""
    return Artefact(name=row.name, digest=row.digest, bytes=row.bytes, media_type=row.media_type)


def event_of(row: Row[Any]) -> Event:
    """An event of a row of its table."""
    return Event(
        number=row.number,
        job=row.job,
        at=moment(row.at),
        kind=row.kind,
        data=json.loads(row.data),
    )


def change(
    connection: Connection,
    kind: str,
    data: dict[str, Any],
    *which: ColumnElement[bool],
    **values: Any,
) -> str | None:
    """Change the one job that meets all conditions, and append an event to it; else do nothing.

    Gives the job's id. It is one statement that finds and changes the row, so that of several who
    try at once one succeeds; the others find that the row meets their conditions no longer. Events
    get their numbers from the row, so that there are no gaps.
    """
    jobs = tables.jobs
    changed = connection.execute(
        update(jobs)
        .where(*which)
        .values(events=jobs.c.events + 1, **values)
        .returning(jobs.c.id, jobs.c.events)
    ).one_or_none()
    if changed is None:
        return None
    append(connection, changed.id, changed.events, kind, data)
    return changed.id


def append(connection: Connection, job: str, number: int, kind: str, data: dict[str, Any]) -> None:
    """Append an event whose number is known to be free."""
    connection.execute(
        insert(tables.events).values(
            job=job,
            number=number,
            at=time.time(),
            kind=kind,
            data=json.dumps(data, ensure_ascii=False, separators=(",", ":")),
        )
    )


def state_data(state: State, fault: Fault | None = None) -> dict[str, Any]:
    """What an event of a new state says."""
    data: dict[str, Any] = {"state": state.value}
    if fault is not None:
        data["fault"] = fault.model_dump(mode="json")
    return data
