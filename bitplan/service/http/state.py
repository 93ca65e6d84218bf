"""What every route of one app works with."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request

from bitplan.service.http.hosts import is_loopback
from bitplan.service.http.known import KnownTokens
from bitplan.service.http.metrics import Metrics
from bitplan.service.http.pool import Pool
from bitplan.service.http.rates import Rates
from bitplan.service.http.recent import Recent
from bitplan.service.http.watcher import Watcher
from bitplan.service.policy import Policy
from bitplan.service.records import Job
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store

READER_BYTES = 16 << 30
"""Of address space for checking uploads and describing models; torch alone maps several GB."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """The parts of one app."""

    settings: ServiceSettings
    store: Store
    enqueue: Callable[[Job], object]
    policy: Policy
    known: KnownTokens
    rates: Rates
    watcher: Watcher
    metrics: Metrics = field(default_factory=Metrics)
    summaries: Recent[str, dict[str, Any]] = field(default_factory=lambda: Recent(5000))
    curves: Recent[tuple[str, int, str], str] = field(default_factory=lambda: Recent(100))
    solver: Pool = field(default_factory=lambda: Pool("solver", "bitplan.service.http.solving"))
    reader: Pool = field(
        default_factory=lambda: Pool(
            "reader", "bitplan.service.http.reading", memory_bytes=READER_BYTES
        )
    )

    @classmethod
    def of(
        cls, settings: ServiceSettings, store: Store, enqueue: Callable[[Job], object]
    ) -> "Service":
        """The parts as the settings want them."""
        return cls(
            settings=settings,
            store=store,
            enqueue=enqueue,
            policy=Policy.of(settings),
            known=KnownTokens(store.tokens),
            rates=Rates.of(settings),
            watcher=Watcher(store.jobs),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From the first request to the last."""
        # Requests are answered meanwhile; the first to solve waits for the rest of it.
        warming = [asyncio.create_task(pool.warm()) for pool in (self.solver, self.reader)]
        try:
            yield
        finally:
            for task in warming:
                task.cancel()
            self.watcher.close()
            self.solver.close()
            self.reader.close()

    @property
    def token_required(self) -> bool:
        """Whether requests need a token: everywhere but on loopback, unless it was said."""
        required = self.settings.token_required
        return not is_loopback(self.settings.host) if required is None else required


async def service_of(request: Request) -> Service:
    """The parts of the app that a request came to."""
    return request.app.state.service


Parts = Annotated[Service, Depends(service_of)]
