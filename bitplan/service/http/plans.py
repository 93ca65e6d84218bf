"""Plans: listed, fetched, sent, made of a table for any budget, compared."""

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field

from bitplan.schema.record import Record
from bitplan.service.http.answers import answer, answer_text
from bitplan.service.http.caller import Caller, Reader, Submitter
from bitplan.service.http.examples import SOLVE
from bitplan.service.http.jobs import note
from bitplan.service.http.problems import ProblemError
from bitplan.service.http.solves import timed
from bitplan.service.http.state import Parts, Service
from bitplan.service.http.tables import TABLE, file_of, path_of, received
from bitplan.service.http.threads import in_thread
from bitplan.service.parameters import Constrained, Name
from bitplan.service.records import Artefact, Digest, JobId, Scope

PLAN = "plan.json"
LOOK_S = 0.05
"""Of searching for a plan that is only looked at: a slider is to move. It is near the best, and
says how near."""

SAVED_S = 10.0

router = APIRouter(tags=["plans"])


class PlanEntry(Record):
    """A plan in a list."""

    digest: Digest
    job: JobId | None
    owner: str
    bytes: int = Field(description="Of the file")
    created_at: datetime


class Plans(Record):
    """Plans, newest first."""

    plans: tuple[PlanEntry, ...]


class SolveRequest(Record):
    """A table and a budget, for a plan."""

    table: Digest
    budget_gb: float = Field(gt=0, le=1e9, description="Of 10^9 bytes, for the whole model")
    constraints: Constrained = Constrained()
    solver: Name = "auto"
    time_limit_s: float | None = Field(
        default=None,
        gt=0,
        le=60,
        description=f"Of searching; none: {LOOK_S} s, or {SAVED_S:g} s for a plan that is saved",
    )
    against: Digest | None = Field(default=None, description="A plan to count the changes from")
    save: bool = Field(default=False, description="Keep the plan, so that a job can apply it")


class Solved(Record):
    """A plan, and how it differs from another."""

    plan: dict[str, Any] = Field(description="As bitplan.Plan.from_json reads it")
    changes: int | None = Field(description="Layers with another scheme than in `against`")
    digest: Digest | None = Field(description="Of the plan's file, where it was saved")


class DiffRequest(Record):
    """Two plans of one model: digests, or plans themselves."""

    a: Digest | dict[str, Any]
    b: Digest | dict[str, Any]


class Changed(Record):
    """A layer that two plans treat differently."""

    layer: str
    a: str
    b: str
    bytes_a: int
    bytes_b: int
    loss_a: float
    loss_b: float


class Diff(Record):
    """What two plans do differently; loss is in nats per token."""

    bytes: tuple[int, int]
    loss: tuple[float, float]
    changed: tuple[Changed, ...]


@router.get("/v1/plans", summary="List plans", response_model=Plans)
def list_plans(
    service: Parts, caller: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> Response:
    """Those of your jobs and those that you saved or sent."""
    kept = service.store.artefacts.listing(PLAN, owner=caller.owner, limit=limit)
    entries = [
        PlanEntry(
            digest=one.artefact.digest,
            job=one.job,
            owner=one.owner,
            bytes=one.artefact.bytes,
            created_at=one.created_at,
        )
        for one in kept
    ]
    return answer(Plans(plans=tuple(entries)))


@router.get(
    "/v1/plans/{digest}",
    summary="A plan",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
)
def get_plan(
    digest: Digest,
    service: Parts,
    caller: Reader,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The file, as bitplan.Plan.load reads it."""
    return file_of(service, caller, digest, PLAN, if_none_match)


@router.post(
    "/v1/plans",
    summary="Solve a table for a budget",
    response_model=Solved,
    openapi_extra={"requestBody": {"content": {"application/json": {"examples": SOLVE}}}},
)
async def solve(wanted: SolveRequest, request: Request, service: Parts, caller: Reader) -> Response:
    """The best plan within a budget, in milliseconds; with `save` it is kept."""
    if wanted.save and not caller.scope.allows(Scope.SUBMIT):
        raise ProblemError(403, "The token's scope is read; to save a plan needs submit.")
    table = await path_of(service, caller, wanted.table, TABLE)
    against = "" if wanted.against is None else await path_of(service, caller, wanted.against, PLAN)
    limit_s = wanted.time_limit_s or (SAVED_S if wanted.save else LOOK_S)
    arguments = wanted.budget_gb, wanted.constraints.model_dump_json(), wanted.solver, limit_s
    text, changes = await timed(
        service, request, "solve_plan", table, *arguments, against, limit_s=limit_s
    )
    digest = await in_thread(_save, service, caller, text) if wanted.save else None
    # The plan is JSON already.
    rest = json.dumps({"changes": changes, "digest": digest})
    return answer_text(f'{{"plan":{text.rstrip()},{rest[1:]}')


@router.post("/v1/plans/diff", summary="Compare two plans", response_model=Diff)
async def diff(wanted: DiffRequest, request: Request, service: Parts, caller: Reader) -> Response:
    """Bytes and losses of both, and the layers that they treat differently."""
    sides = [
        await path_of(service, caller, side, PLAN) if isinstance(side, str) else json.dumps(side)
        for side in (wanted.a, wanted.b)
    ]
    return answer_text(await timed(service, request, "differences", *sides, limit_s=10.0))


@router.post(
    "/v1/plans/upload",
    summary="Send a plan",
    status_code=201,
    response_model=Artefact,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
)
async def send_plan(request: Request, service: Parts, caller: Submitter) -> Response:
    """A file that bitplan wrote, so that a job can apply it."""
    return await received(request, service, caller, PLAN)


def _save(service: Service, caller: Caller, text: str) -> str:
    content = text.encode()
    kept = service.store.artefacts.keep(
        content, name=PLAN, owner=caller.name, media_type="application/json"
    )
    note(service, caller, "save plan", kept.digest)
    return kept.digest
