"""Runs flows over HTTP with httpx: one class that waits, one that does not."""

import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread
import httpx

from bitplan.service.client.steps import (
    Answer,
    Done,
    Flow,
    Lost,
    Pause,
    Read,
    Send,
    Step,
    Watching,
    Work,
    advance,
)
from bitplan.service.records import Event

T = TypeVar("T")

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class Transport:
    """Runs flows and waits meanwhile."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def run(self, flow: Flow[T]) -> T:
        """What a flow returns."""
        with _Exchange(self.client) as exchange:
            try:
                step = advance(flow)
                while not isinstance(step, Done):
                    step = advance(flow, exchange.do(step))
                return step.value
            finally:
                flow.close()

    def iterate(self, flow: Watching) -> Iterator[Event]:
        """The events that a flow yields."""
        with _Exchange(self.client) as exchange:
            try:
                step = advance(flow)
                while not isinstance(step, Done):
                    if isinstance(step, Event):
                        yield step
                        step = advance(flow)
                    else:
                        step = advance(flow, exchange.do(step))
            finally:
                flow.close()


class AsyncTransport:
    """Runs flows and lets others work meanwhile."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def run(self, flow: Flow[T]) -> T:
        """What a flow returns."""
        async with _AsyncExchange(self.client) as exchange:
            try:
                step = advance(flow)
                while not isinstance(step, Done):
                    step = advance(flow, await exchange.do(step))
                return step.value
            finally:
                flow.close()

    async def iterate(self, flow: Watching) -> AsyncIterator[Event]:
        """The events that a flow yields."""
        async with _AsyncExchange(self.client) as exchange:
            try:
                step = advance(flow)
                while not isinstance(step, Done):
                    if isinstance(step, Event):
                        yield step
                        step = advance(flow)
                    else:
                        step = advance(flow, await exchange.do(step))
            finally:
                flow.close()


class _Exchange:
    """The steps of one flow; holds the answer that it reads in pieces."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._streamed: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def do(self, step: Step) -> Any:
        try:
            match step:
                case Send():
                    return self._send(step)
                case Read():
                    return next(self._chunks, b"")
                case Pause():
                    return time.sleep(step.seconds)
                case Work():
                    return step.function()
        except httpx.RequestError as error:
            return _lost(error)

    def _send(self, step: Send) -> Answer:
        self._close()
        response = self._client.send(_request(self._client, step), stream=True)
        if step.stream and response.is_success:
            self._streamed, self._chunks = response, response.iter_bytes()
            return _answer(response, b"")
        try:
            return _answer(response, response.read())
        finally:
            response.close()

    def _close(self) -> None:
        if self._streamed is not None:
            self._streamed.close()
        self._streamed, self._chunks = None, iter(())


class _AsyncExchange:
    """The same, awaited."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._streamed: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def do(self, step: Step) -> Any:
        try:
            match step:
                case Send():
                    return await self._send(step)
                case Read():
                    return await anext(self._chunks, b"") if self._chunks else b""
                case Pause():
                    return await anyio.sleep(step.seconds)
                case Work():
                    return await anyio.to_thread.run_sync(step.function)
        except httpx.RequestError as error:
            return _lost(error)

    async def _send(self, step: Send) -> Answer:
        await self._close()
        response = await self._client.send(_request(self._client, step), stream=True)
        if step.stream and response.is_success:
            self._streamed, self._chunks = response, response.aiter_bytes()
            return _answer(response, b"")
        try:
            return _answer(response, await response.aread())
        finally:
            await response.aclose()

    async def _close(self) -> None:
        if self._streamed is not None:
            await self._streamed.aclose()
        self._streamed = self._chunks = None


def _request(client: httpx.Client | httpx.AsyncClient, step: Send) -> httpx.Request:
    return client.build_request(
        step.method, step.path, params=step.query, headers=step.headers, content=step.body
    )


def _answer(response: httpx.Response, body: bytes) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(status=response.status_code, headers=headers, body=body)


def _lost(error: httpx.RequestError) -> Lost:
    timed_out = isinstance(error, httpx.TimeoutException)
    reason = "no answer in time" if timed_out else str(error) or type(error).__name__
    return Lost(reason=reason, was_sent=not isinstance(error, _NOT_SENT))
