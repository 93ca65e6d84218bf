"""Cost tables: those that jobs measured and those that people sent."""

import json
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from bitplan.schema.record import Record
from bitplan.service.http.answers import answer
from bitplan.service.http.artefacts import file_answer
from bitplan.service.http.caller import Caller, Reader, Submitter
from bitplan.service.http.jobs import note
from bitplan.service.http.problems import ProblemError
from bitplan.service.http.state import Parts, Service
from bitplan.service.http.threads import in_thread
from bitplan.service.http.uploads import keep
from bitplan.service.records import Artefact, Digest, JobId
from bitplan.service.store import Kept

TABLE = "costs.json"
SUMMARY_S = 30.0

router = APIRouter(tags=["tables"])


class TableEntry(Record):
    """A table in a list."""

    digest: Digest
    job: JobId | None
    owner: str
    model: str
    layers: int
    created_at: datetime


class Tables(Record):
    """Tables, newest first."""

    tables: tuple[TableEntry, ...]


@router.get("/v1/tables", summary="List cost tables", response_model=Tables)
async def list_tables(
    service: Parts, caller: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> Response:
    """Those of your jobs and those that you sent."""
    kept = await in_thread(service.store.artefacts.listing, TABLE, owner=caller.owner, limit=limit)
    return answer(Tables(tables=tuple([await _entry(service, one) for one in kept])))


@router.get(
    "/v1/tables/{digest}",
    summary="A cost table",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
)
def get_table(
    digest: Digest,
    service: Parts,
    caller: Reader,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The file, as bitplan.CostTable.load reads it."""
    return file_of(service, caller, digest, TABLE, if_none_match)


@router.post(
    "/v1/tables",
    summary="Send a cost table",
    status_code=201,
    response_model=Artefact,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
)
async def send_table(request: Request, service: Parts, caller: Submitter) -> Response:
    """A file that bitplan measure wrote, its digest in it."""
    return await received(request, service, caller, TABLE)


def find(service: Service, caller: Caller, digest: str, name: str) -> Artefact:
    """A table or plan that a caller may see. Raises `ProblemError` 404."""
    found = service.store.artefacts.find(digest, name=name, owner=caller.owner)
    if found is None:
        noun = "table" if name == TABLE else "plan"
        raise ProblemError(404, f"There is no {noun} {digest}. See the list of {noun}s.")
    return found


def file_of(
    service: Service, caller: Caller, digest: str, name: str, if_none_match: str | None
) -> Response:
    """The file of a table or plan that a caller may see."""
    artefact = find(service, caller, digest, name)
    path = service.store.artefacts.path(digest)
    return file_answer(artefact, path, if_none_match=if_none_match)


async def received(request: Request, service: Service, caller: Caller, name: str) -> Response:
    """Keep what a caller sends as a table or plan, and say where it is."""
    artefact = await keep(request, service, caller, name)
    noun = "table" if name == TABLE else "plan"
    await in_thread(note, service, caller, f"send {noun}", artefact.digest)
    return answer(artefact, 201, {"Location": f"/v1/{noun}s/{artefact.digest}"})


async def path_of(service: Service, caller: Caller, digest: str, name: str) -> str:
    """Where a table or plan lies that a caller may see."""
    await in_thread(find, service, caller, digest, name)
    return str(service.store.artefacts.path(digest))


async def _entry(service: Service, kept: Kept) -> TableEntry:
    digest = kept.artefact.digest
    known = service.summaries.get(digest)
    if known is None:
        path = str(service.store.artefacts.path(digest))
        known = json.loads(await service.reader.call("summary", path, time_limit_s=SUMMARY_S))
        service.summaries[digest] = known
    return TableEntry(
        digest=digest, job=kept.job, owner=kept.owner, created_at=kept.created_at, **known
    )
