"""The curve of a table: what each budget can have, beside uniform and measured plans."""

import json
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from pydantic import Field

from bitplan.schema.record import Record
from bitplan.service.http.answers import answer_text
from bitplan.service.http.caller import Caller, Reader
from bitplan.service.http.examples import FRONTIER
from bitplan.service.http.plans import PLAN
from bitplan.service.http.solves import timed
from bitplan.service.http.state import Parts, Service
from bitplan.service.http.tables import TABLE, path_of
from bitplan.service.http.threads import in_thread
from bitplan.service.parameters import Constrained
from bitplan.service.records import Digest

LIMIT_S = 20.0
MOST_JOBS = 200

router = APIRouter(tags=["plans"])


class FrontierRequest(Record):
    """A table, and at how many budgets to solve it."""

    table: Digest
    points: int = Field(default=50, ge=2, le=200)
    constraints: Constrained = Constrained()


class Point(Record):
    """The best plan at a budget; loss is in nats per token, bits are per weight."""

    bytes: int
    loss: float
    bits: float


class UniformPoint(Record):
    """A plan with one scheme."""

    scheme: str
    bytes: int
    loss: float


class MeasuredPoint(Record):
    """A plan that was measured on the model."""

    bytes: int
    kl: float
    name: str


class Frontier(Record):
    """A table's curve."""

    points: tuple[Point, ...]
    uniform: tuple[UniformPoint, ...]
    measured: tuple[MeasuredPoint, ...]


@router.post(
    "/v1/frontier",
    summary="What each budget can have",
    response_model=Frontier,
    openapi_extra={"requestBody": {"content": {"application/json": {"examples": FRONTIER}}}},
)
async def frontier(
    wanted: FrontierRequest, request: Request, service: Parts, caller: Reader
) -> Response:
    """Plans from the smallest to the largest budget; `measured` are of jobs that had this table."""
    table = await path_of(service, caller, wanted.table, TABLE)
    constraints = wanted.constraints.model_dump_json()
    key = wanted.table, wanted.points, constraints
    text = service.curves.get(key)
    if text is None:
        arguments = table, wanted.points, constraints, LIMIT_S
        text = await timed(service, request, "solve_frontier", *arguments, limit_s=LIMIT_S)
        service.curves[key] = text
    plans = await in_thread(_plans_of, service, caller, wanted.table)
    measured = await timed(service, request, "measured", plans, limit_s=LIMIT_S)
    content = {**json.loads(text), "measured": json.loads(measured)}
    return answer_text(json.dumps(content))


def _plans_of(service: Service, caller: Caller, digest: str) -> Sequence[str]:
    """Files of the plans of jobs that measured this very table, newest first."""
    jobs = service.store.jobs.list(
        owner=caller.owner, kinds=("allocate", "compress"), limit=MOST_JOBS
    )
    made = [{one.name: one.digest for one in job.artefacts} for job in jobs]
    plans = [names[PLAN] for names in made if names.get(TABLE) == digest and PLAN in names]
    return [str(service.store.artefacts.path(one)) for one in dict.fromkeys(plans)]
