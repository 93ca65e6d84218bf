"""Jobs: submit, list, look at, cancel, try again."""

import logging
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from bitplan.schema.record import Record
from bitplan.service.context import request_id, set_job_id
from bitplan.service.http.answers import answer
from bitplan.service.http.caller import Caller, Reader, Submitter
from bitplan.service.http.examples import JOB_REQUESTS
from bitplan.service.http.state import Parts, Service
from bitplan.service.http.submission import checked
from bitplan.service.parameters import KINDS
from bitplan.service.records import Job, JobId, JobRequest, State

log = logging.getLogger(__name__)

router = APIRouter(tags=["jobs"])


class JobPage(Record):
    """Some of the jobs, newest first."""

    jobs: tuple[Job, ...]
    next: JobId | None = None
    """Give it as `before` for those that are older."""


@router.post(
    "/v1/jobs",
    summary="Submit a job",
    status_code=201,
    response_model=Job,
    responses={200: {"model": Job, "description": "The key was seen before: the job it made"}},
    openapi_extra={"requestBody": {"content": {"application/json": {"examples": JOB_REQUESTS}}}},
)
def submit(
    request: JobRequest,
    service: Parts,
    caller: Submitter,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=r"^[\x21-\x7e]{1,200}$",
            description="Sent again with the same request it gives the same job, and no second one",
        ),
    ] = None,
) -> Response:
    """Submit a stage and its parameters. The answer comes at once; a worker takes the job up."""
    wanted = checked(
        request,
        policy=service.policy,
        settings=service.settings,
        artefacts=service.store.artefacts,
        owner=caller.owner,
    )
    job, is_new = service.store.jobs.submit(
        wanted, owner=caller.name, idempotency_key=idempotency_key, request_id=request_id()
    )
    set_job_id(job.id)
    if is_new:
        note(service, caller, "submit", f"{job.id} {job.kind} {wanted.parameters.model}")
        log.info("%s submitted a %s job", caller.name, job.kind)
        enqueue(service, job)
    return answer(job, 201 if is_new else 200, {"Location": f"/v1/jobs/{job.id}"})


@router.get("/v1/jobs", summary="List jobs", response_model=JobPage)
def list_jobs(
    service: Parts,
    caller: Reader,
    state: Annotated[list[State], Query(max_length=5)] = [],  # noqa: B006
    kind: Annotated[list[str], Query(max_length=5, description=f"Of {', '.join(KINDS)}")] = [],  # noqa: B006
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: JobId | None = None,
) -> Response:
    """Your jobs, an admin everyone's, newest first."""
    jobs = service.store.jobs.list(
        owner=caller.owner, states=state, kinds=kind, limit=limit + 1, before=before
    )
    page, more = jobs[:limit], jobs[limit:]
    return answer(JobPage(jobs=tuple(page), next=page[-1].id if more else None))


@router.get("/v1/jobs/{job_id}", summary="One job", response_model=Job)
def get_job(job_id: JobId, service: Parts, caller: Reader) -> Response:
    """Its request, state, progress and artefacts."""
    return answer(service.store.jobs.get(job_id, owner=caller.owner))


@router.post(
    "/v1/jobs/{job_id}/cancel", summary="Cancel a job", status_code=202, response_model=Job
)
def cancel(job_id: JobId, service: Parts, caller: Submitter) -> Response:
    """A job that is queued ends at once, one that runs soon; one that has ended stays as it is."""
    set_job_id(job_id)
    job = service.store.jobs.cancel(job_id, owner=caller.owner)
    note(service, caller, "cancel", job_id)
    return answer(job, 202)


@router.post("/v1/jobs/{job_id}/retry", summary="Try again", status_code=202, response_model=Job)
def retry(job_id: JobId, service: Parts, caller: Submitter) -> Response:
    """A job that failed or was cancelled is queued again and goes on from what it has made."""
    set_job_id(job_id)
    job = service.store.jobs.retry(job_id, owner=caller.owner)
    note(service, caller, "retry", job_id)
    enqueue(service, job)
    return answer(job, 202)


def enqueue(service: Service, job: Job) -> None:
    """Tell the workers. They also look for forgotten jobs, so a queue that is down only delays."""
    service.enqueue(job)


def note(service: Service, caller: Caller, action: str, subject: str) -> None:
    """Write a deed into the audit log."""
    service.store.audit.note(caller.name, action, subject, request_id(), caller.address)
