"""A service that answers what a test wrote down, and what both clients are in the test's hands."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from bitplan import AsyncClient, Client
from bitplan.service.records import Artefact, Event, Fault, Job, JobRequest, State

SERVER = "http://service.test"
JOB = "1" * 32
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


class Script:
    """Gives each request the next answer; keeps the requests. The last answer stays."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self._next(request)

    async def later(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self._next(request)

    def _next(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return _again(answer) if isinstance(answer, httpx.Response) else answer(request)

    @property
    def asked(self) -> list[str]:
        return [f"{each.method} {each.url.raw_path.decode()}" for each in self.requests]


def _again(answer: httpx.Response) -> httpx.Response:
    """A response serves one request only."""
    status, headers = answer.status_code, answer.headers
    if isinstance(answer.stream, Cut):
        return httpx.Response(status, headers=headers, stream=answer.stream)
    return httpx.Response(status, headers=headers, content=answer.content)


class Awaited:
    """An `AsyncClient` whose verbs a test calls as those of `Client`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        verb = getattr(self._client, name)
        if name == "watch":
            return lambda *args, **kwargs: self._iterate(verb(*args, **kwargs))
        return lambda *args, **kwargs: self._runner.run(verb(*args, **kwargs))

    def _iterate(self, events: AsyncGenerator[Event]) -> Iterator[Event]:
        async def following() -> Event | None:
            return await anext(events, None)

        try:
            while (event := self._runner.run(following())) is not None:
                yield event
        finally:
            self._runner.run(events.aclose())

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


def client_of(kind: str, script: Script, *, patience_s: float = 0.3, **arguments: Any) -> Any:
    """A client, "waiting" or "awaited", of a scripted service."""
    if kind == "waiting":
        transport = httpx.MockTransport(script)
        return Client(SERVER, patience_s=patience_s, transport=transport, **arguments)
    transport = httpx.MockTransport(script.later)
    return Awaited(AsyncClient(SERVER, patience_s=patience_s, transport=transport, **arguments))


class Cut(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in chunks, which ends in an error where one is given."""

    def __init__(self, chunks: Sequence[bytes], error: Exception | None = None) -> None:
        self.chunks, self.error = chunks, error

    def __iter__(self) -> Iterator[bytes]:
        yield from self.chunks
        if self.error:
            raise self.error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


def problem(status: int, detail: str, **headers: str) -> httpx.Response:
    content = {"type": "about:blank", "title": "No", "status": status, "detail": detail}
    kind = {"content-type": "application/problem+json", "x-request-id": "r1"}
    return httpx.Response(status, content=json.dumps(content), headers={**kind, **headers})


def a_job(state: State = State.QUEUED, **more: Any) -> Job:
    parameters = {"kind": "allocate", "model": "/models/tiny", "budget_gb": 0.5}
    request = JobRequest.model_validate({"parameters": parameters})
    given = {"id": JOB, "request": request, "owner": "me", "attempt": 1, "created_at": AT}
    return Job.model_validate({**given, "state": state, **more})


def told(record: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, content=record.model_dump_json())


FAULT = Fault(kind="InfeasibleError", message="The budget is too small. Raise it.", is_input=True)


def an_event(number: int, kind: str, **data: Any) -> Event:
    return Event.model_validate(
        {"number": number, "job": JOB, "at": AT, "kind": kind, "data": data}
    )


def as_sse(*events: Event) -> bytes:
    texts = (
        f"id: {e.number}\r\nevent: {e.kind}\r\ndata: {e.model_dump_json()}\r\n" for e in events
    )
    return "\r\n".join([*texts, ""]).encode()


def stream(*chunks: bytes, error: Exception | None = None) -> httpx.Response:
    return httpx.Response(200, stream=Cut(chunks, error))


def an_artefact(name: str, content: bytes) -> Artefact:
    return Artefact(name=name, digest=hashlib.sha256(content).hexdigest(), bytes=len(content))
