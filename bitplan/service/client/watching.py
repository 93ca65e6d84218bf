"""A job's events, one by one, over as many connections as it takes."""

import logging

from bitplan.errors import ServiceError
from bitplan.service.client.backoff import pauses
from bitplan.service.client.calls import Calls, path_of
from bitplan.service.client.problems import read_record, unreachable
from bitplan.service.client.requests import job_id
from bitplan.service.client.sse import Parser
from bitplan.service.client.steps import Lost, Pause, Read, Send, Watching
from bitplan.service.records import Event, Job, State

logger = logging.getLogger(__name__)

PATIENCE_S = 300.0
"""A service may be restarted, or updated, while a job is watched."""


def watching(calls: Calls, job: Job | str, after: int = 0) -> Watching:
    """Yields each event after a number once, until the job has ended.

    A stream may be cut anywhere. It is asked for again from the last event that came; and that a
    job has ended is believed when the job itself says so, because a job that failed and was tried
    again has an end among its events.
    """
    name = job_id(job)
    send = Send(method="GET", path=path_of("jobs", name, "events"), stream=True)
    waits = pauses(PATIENCE_S)
    state: State | None = None
    while True:
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        stream = Send(method="GET", path=send.path, headers=headers, stream=True)
        yield from calls.call(stream, patience_s=PATIENCE_S)
        parser, heard = Parser(), False
        while isinstance(chunk := (yield Read()), bytes) and chunk:
            for message in parser.feed(chunk):
                if not message.id:  # a sign of life
                    continue
                event = read_record(calls.server, str(send), message.data, Event)
                if event.number <= after:
                    continue
                after, heard = event.number, True
                if event.kind == "state":
                    state = _state(calls, event)
                yield event
        if heard:
            waits = pauses(PATIENCE_S)
        if not isinstance(chunk, Lost):
            now = yield from calls.get(Job, path_of("jobs", name))
            if now.state.has_ended and (now.state is state or not heard):
                return
            chunk = Lost(reason="it ends the stream of a job that has not ended", was_sent=False)
        wait = next(waits, None)
        if wait is None:
            raise unreachable(calls.server, chunk)
        logger.info("%s: %s; listening again.", calls.server, chunk.reason)
        yield Pause(seconds=wait)


def _state(calls: Calls, event: Event) -> State:
    try:
        return State(event.data["state"])
    except (KeyError, ValueError):
        raise ServiceError(
            f"{calls.server} tells of a state that this bitplan does not know: {event.data}. "
            "Check that both have the same version."
        ) from None
