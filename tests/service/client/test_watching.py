"""Each event once, whatever happens to the connection."""

import httpx
import pytest

from bitplan.errors import RefusedError, ServiceError, UnreachableError
from bitplan.service.client import calls
from bitplan.service.client import watching as module
from scripted_service import JOB, Script, a_job, an_event, as_sse, problem, stream, told

CUT = httpx.ReadError("connection reset")
GONE = httpx.ConnectError("refused")
EVENTS = [
    an_event(1, "state", state="queued"),
    an_event(2, "state", state="running"),
    an_event(3, "progress", stage="measure", done=1, total=2),
    an_event(4, "remark", stage="refine", text="better", kl=0.1),
    an_event(5, "state", state="succeeded"),
]
DONE = told(a_job("succeeded"))
RUNNING = told(a_job("running"))
PATH = f"GET /v1/jobs/{JOB}"


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)


def asked_after(script: Script) -> list[str]:
    heads = (request.headers.get("last-event-id") for request in script.requests)
    return [head for head in heads if head is not None]


def test_events_come_in_order_and_end_with_the_job(client):
    script = Script(stream(b": hello\r\n\r\n" + as_sse(*EVENTS)), DONE)
    assert list(client(script).watch(JOB)) == EVENTS
    assert script.asked == [f"{PATH}/events", PATH]
    assert script.requests[0].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize("cut", range(6))
@pytest.mark.parametrize("end", [CUT, None, httpx.ReadTimeout("silence")])
def test_a_stream_that_is_cut_goes_on_where_it_was(cut, end, client):
    before = stream(as_sse(*EVENTS[:cut]), b"id: 9\r\ndata: {half", error=end)
    now = RUNNING if cut < 5 else DONE
    answers = [before, *([now] if end is None else []), GONE, problem(503, "Starting.")]
    script = Script(*answers, stream(as_sse(*EVENTS[cut:])), DONE)
    assert list(client(script).watch(JOB)) == EVENTS
    assert asked_after(script)[0] == "0"
    assert end is None or asked_after(script)[1] == str(cut)


def test_events_that_come_again_are_left_out(client):
    script = Script(stream(as_sse(*EVENTS[:3]), error=CUT), stream(as_sse(*EVENTS)), DONE)
    assert list(client(script).watch(JOB)) == EVENTS


def test_events_up_to_a_number_are_left_out(client):
    script = Script(stream(as_sse(*EVENTS[3:])), DONE)
    assert list(client(script).watch(JOB, after=3)) == EVENTS[3:]
    assert asked_after(script) == ["3"]


def test_an_end_that_was_followed_by_another_try_is_not_the_end(client):
    again = [
        *EVENTS[:2],
        an_event(3, "state", state="failed"),
        an_event(4, "state", state="queued"),
        an_event(5, "state", state="succeeded"),
    ]
    script = Script(stream(as_sse(*again[:3])), DONE, stream(as_sse(*again[3:])), DONE)
    assert list(client(script).watch(JOB)) == again


def test_a_job_that_has_ended_and_tells_nothing_new(client):
    script = Script(stream(b""), DONE)
    assert list(client(script).watch(JOB, after=5)) == []
    script = Script(httpx.Response(204), DONE)
    assert list(client(script).watch(JOB, after=5)) == []


def test_streams_that_end_at_once_are_asked_for_with_pauses_and_not_for_ever(client):
    script = Script(lambda request: stream(b"") if "events" in str(request.url) else told(a_job()))
    with pytest.raises(UnreachableError, match="has not ended"):
        list(client(script).watch(JOB))
    assert len(script.requests) < 20


def test_a_service_that_does_not_come_back_is_said(client, monkeypatch, caplog):
    monkeypatch.setattr(calls, "QUIET_S", 1e-6)
    script = Script(stream(as_sse(*EVENTS[:2]), error=CUT), GONE)
    seen = []
    with pytest.raises(UnreachableError, match="does not answer"):
        seen.extend(client(script).watch(JOB))
    warned = [one for one in caplog.records if one.levelname == "WARNING"]
    assert [one.getMessage().endswith("refused; trying again.") for one in warned] == [True]


def test_another_users_job_is_refused(client):
    with pytest.raises(RefusedError, match="no such job"):
        list(client(Script(problem(404, "There is no such job."))).watch(JOB))


@pytest.mark.parametrize(
    "data", ["{", "[]", '{"number": 1}', EVENTS[0].model_dump_json().replace("queued", "napping")]
)
def test_what_is_no_event_is_said(data, client):
    script = Script(stream(f"id: 1\ndata: {data}\n\n".encode()))
    with pytest.raises(ServiceError, match="same version"):
        list(client(script).watch(JOB))


def test_leaving_early_closes_the_stream(client):
    class Watched(httpx.SyncByteStream, httpx.AsyncByteStream):
        closed = False

        def __iter__(self):
            while True:
                yield as_sse(EVENTS[0])

        async def __aiter__(self):
            while True:
                yield as_sse(EVENTS[0])

        def close(self):
            self.closed = True

        async def aclose(self):
            self.closed = True

    body = Watched()
    one = client(Script(lambda request: httpx.Response(200, stream=body)))
    events = one.watch(JOB)
    assert next(events) == EVENTS[0]
    assert not body.closed
    events.close()
    assert body.closed
