"""`Client` and `AsyncClient`: the same verbs, waiting for each or not."""

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from bitplan.service.client.calls import Calls
from bitplan.service.client.place import (
    SILENCE_S,
    connection,
    server_of,
    token_of,
    transport_module,
)
from bitplan.service.client.steps import Flow, Watching
from bitplan.service.client.verbs import Verbs
from bitplan.service.records import Event

if TYPE_CHECKING:
    import httpx

    from bitplan.service.client.transport import AsyncTransport, Transport

P = ParamSpec("P")
T = TypeVar("T")


def _waits(verb: Callable[Concatenate[Verbs, P], Flow[T]]) -> Callable[Concatenate["Client", P], T]:
    @functools.wraps(verb)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._transport.run(verb(self._verbs, *args, **kwargs))

    return method


def _yields(
    verb: Callable[Concatenate[Verbs, P], Watching],
) -> Callable[Concatenate["Client", P], Iterator[Event]]:
    @functools.wraps(verb)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Event]:
        return self._transport.iterate(verb(self._verbs, *args, **kwargs))

    return method


def _awaits(
    verb: Callable[Concatenate[Verbs, P], Flow[T]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    @functools.wraps(verb)
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._transport.run(verb(self._verbs, *args, **kwargs))

    return method


def _yields_later(
    verb: Callable[Concatenate[Verbs, P], Watching],
) -> Callable[Concatenate["AsyncClient", P], AsyncIterator[Event]]:
    @functools.wraps(verb)
    def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Event]:
        return self._transport.iterate(verb(self._verbs, *args, **kwargs))

    return method


class Client:
    """A bitplan service, from a script: submit jobs, watch them, fetch what they make.

    Raises `ServiceError` where the service cannot be reached, refuses or fails. Requests are tried
    again where no answer comes, if that is safe; a submission is, by its key. May be shared by
    threads.

    ```python
    with bitplan.Client("http://model-machine:8642", token=...) as client:
        job = client.submit("allocate", model="/models/llama", budget_gb=4.5)
        client.wait(job)
        client.fetch(job, "out")
    ```

    Args:
        server: Its address. None: that in BITPLAN_SERVER, or http://127.0.0.1:8642.
        token: None: that in BITPLAN_TOKEN, or none, which suffices on the service's own machine.
        timeout_s: Seconds for one answer to begin, or to go on.
        patience_s: Seconds to try again for where there is no answer.
        transport: In place of the network, one of httpx's transports.
    """

    def __init__(
        self,
        server: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = SILENCE_S,
        patience_s: float = 10.0,
        transport: "httpx.BaseTransport | None" = None,
    ) -> None:
        self.server = server_of(server)
        module = transport_module()
        arguments = connection(self.server, token_of(token), timeout_s)
        self._http: httpx.Client = module.httpx.Client(**arguments, transport=transport)
        self._transport: Transport = module.Transport(self._http)
        self._verbs = Verbs(Calls(self.server, patience_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.server!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    submit = _waits(Verbs.submit)
    job = _waits(Verbs.job)
    jobs = _waits(Verbs.jobs)
    cancel = _waits(Verbs.cancel)
    retry = _waits(Verbs.retry)
    watch = _yields(Verbs.watch)
    wait = _waits(Verbs.wait)
    fetch = _waits(Verbs.fetch)
    plan = _waits(Verbs.plan)
    table = _waits(Verbs.table)
    upload = _waits(Verbs.upload)
    solve = _waits(Verbs.solve)
    frontier = _waits(Verbs.frontier)
    models = _waits(Verbs.models)
    describe_model = _waits(Verbs.describe_model)


class AsyncClient:
    """`Client` for asyncio and trio: its arguments and verbs, each awaited; `watch` by `async for`.

    ```python
    async with bitplan.AsyncClient() as client:
        job = await client.submit("allocate", model="/models/llama", budget_gb=4.5)
        async for event in client.watch(job):
            print(event.kind, event.data)
    ```
    """

    def __init__(
        self,
        server: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = SILENCE_S,
        patience_s: float = 10.0,
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> None:
        self.server = server_of(server)
        module = transport_module()
        arguments = connection(self.server, token_of(token), timeout_s)
        self._http: httpx.AsyncClient = module.httpx.AsyncClient(**arguments, transport=transport)
        self._transport: AsyncTransport = module.AsyncTransport(self._http)
        self._verbs = Verbs(Calls(self.server, patience_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self.server!r})"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    submit = _awaits(Verbs.submit)
    job = _awaits(Verbs.job)
    jobs = _awaits(Verbs.jobs)
    cancel = _awaits(Verbs.cancel)
    retry = _awaits(Verbs.retry)
    watch = _yields_later(Verbs.watch)
    wait = _awaits(Verbs.wait)
    fetch = _awaits(Verbs.fetch)
    plan = _awaits(Verbs.plan)
    table = _awaits(Verbs.table)
    upload = _awaits(Verbs.upload)
    solve = _awaits(Verbs.solve)
    frontier = _awaits(Verbs.frontier)
    models = _awaits(Verbs.models)
    describe_model = _awaits(Verbs.describe_model)
