"""For machines that look after the server: is it alive, can it work, how much does it do."""

import logging

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from bitplan.schema.record import Record
from bitplan.service.http.answers import answer
from bitplan.service.http.problems import ProblemError
from bitplan.service.http.state import Parts
from bitplan.service.store import StoreUnavailable

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


class Health(Record):
    """That all is well."""

    status: str = "ok"


@router.get("/healthz", summary="The server answers", response_model=Health)
async def alive() -> Response:
    """Whether the process answers at all."""
    return answer(Health())


@router.get("/readyz", summary="The server can work", response_model=Health)
def is_ready(service: Parts) -> Response:
    """Whether the database can be read; 503 where it cannot."""
    try:
        service.store.jobs.counts()
    except StoreUnavailable:
        log.warning("the database cannot be read", exc_info=True)
        raise ProblemError(503, "The database cannot be read now. Try again soon.") from None
    return answer(Health())


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(service: Parts) -> Response:
    """Requests by route, jobs by state, solves, open streams."""
    counts = service.store.jobs.counts()
    return Response(service.metrics.text(counts), media_type=CONTENT_TYPE_LATEST)
