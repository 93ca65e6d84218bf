"""A job's events as they happen, as server-sent events; a broken stream goes on from its last."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from sse_starlette import EventSourceResponse, ServerSentEvent

from bitplan.service.context import set_job_id
from bitplan.service.http.caller import Reader
from bitplan.service.http.problems import ProblemError
from bitplan.service.http.state import Parts, Service
from bitplan.service.http.threads import in_thread
from bitplan.service.records import Event, JobId, State

PING_S = 15
MOST_STREAMS = 500

router = APIRouter(tags=["jobs"])


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="What happens to a job, as it happens",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def watch(
    job_id: JobId,
    service: Parts,
    caller: Reader,
    after: Annotated[
        int | None, Query(ge=0, le=2**53, description="Begin after the event of this number")
    ] = None,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^[0-9]{1,15}$", description="Likewise; browsers send it")
    ] = None,
) -> EventSourceResponse:
    """Server-sent events: `id` a number, `event` the kind, `data` an Event as JSON.

    The stream ends when the job has ended and all was told.
    """
    set_job_id(job_id)
    await in_thread(service.store.jobs.get, job_id, owner=caller.owner)
    if service.watcher.readers >= MOST_STREAMS:
        raise ProblemError(
            503, "Too many streams are open. Try again soon.", headers={"Retry-After": "5"}
        )
    start = int(last_event_id) if last_event_id is not None else after or 0
    return EventSourceResponse(
        _stream(service, job_id, start),
        ping=PING_S,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(service: Service, job_id: JobId, after: int) -> AsyncIterator[ServerSentEvent]:
    events = await service.watcher.join(job_id, after)
    service.metrics.stream(1)
    try:
        while True:
            for event in events:
                yield ServerSentEvent(
                    event.model_dump_json(), event=event.kind, id=str(event.number)
                )
                after = event.number
            if await _is_over(service, job_id, events):
                return
            events = await service.watcher.events(job_id, after)
    finally:
        service.watcher.leave(job_id)
        service.metrics.stream(-1)


async def _is_over(service: Service, job_id: JobId, told: list[Event]) -> bool:
    """Whether the job has ended, and the events that were told are the last there are."""
    if told and not (told[-1].kind == "state" and State(told[-1].data["state"]).has_ended):
        return False
    job = await in_thread(service.store.jobs.get, job_id)
    if not job.state.has_ended:
        return False
    last = told[-1].number if told else None
    return last is None or not await in_thread(
        service.store.jobs.events, job_id, after=last, limit=1
    )
