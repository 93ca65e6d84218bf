"""The web app: routes, and what stands around them."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from bitplan.service.http import (
    admin,
    artefacts,
    events,
    frontier,
    health,
    jobs,
    models,
    plans,
    session,
    tables,
)
from bitplan.service.http.bodies import BodyLimit
from bitplan.service.http.headers import SecurityHeaders
from bitplan.service.http.hosts import LoopbackHosts
from bitplan.service.http.openapi import describe_app
from bitplan.service.http.problems import add_handlers
from bitplan.service.http.requests import Requests
from bitplan.service.http.state import Service
from bitplan.service.records import Job
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store

ROUTERS = tuple(
    each.router
    for each in (health, session, jobs, events, artefacts, models, tables, plans, frontier, admin)
)


def make_app(
    settings: ServiceSettings, store: Store, enqueue: Callable[[Job], object] = lambda job: None
) -> FastAPI:
    """The web app of a service.

    Args:
        settings: as its workers have them.
        store: what it remembers; the app does not close it.
        enqueue: tells the workers of a job. Without it they find it when they next look.
    """
    service = Service.of(settings, store, enqueue)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="bitplan",
        version=version("bitplan"),
        lifespan=lifespan,
        docs_url=None,  # pages that fetch scripts from elsewhere
        redoc_url=None,
        telemetry=telemetry(),
    )
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    add_handlers(app)
    describe_app(app)
    # The last that is added is the outermost.
    uploads = {
        "/v1/tables": settings.max_upload_bytes,
        "/v1/plans/upload": settings.max_upload_bytes,
    }
    app.add_middleware(BodyLimit, most_bytes=settings.max_body_bytes, uploads=uploads)
    if not service.token_required:
        app.add_middleware(LoopbackHosts)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Requests, metrics=service.metrics)
    return app


def telemetry() -> Any:
    """OpenTelemetry, where the environment names a collector; FastAPI warns when it cannot send.

    Neither bodies nor what was wrong with them is sent: they are not for others.
    """
    wanted = any(os.environ.get(name) for name in ASKED)
    return {
        "tracing": wanted,
        "metrics": wanted,
        "logs": False,
        "operation_spans": False,
        "auto_configure": wanted,
    }


ASKED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
