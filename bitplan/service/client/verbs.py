"""What a client can do, each verb as a flow; `Client` and `AsyncClient` run them."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitplan.errors import InputError, ServiceError
from bitplan.progress import Progress, quiet
from bitplan.schema import CostTable, Plan
from bitplan.service.client.answers import (
    Frontier,
    JobPage,
    Models,
    ModelSummary,
    Solved,
    Uploaded,
)
from bitplan.service.client.calls import Calls, path_of
from bitplan.service.client.fetching import fetching
from bitplan.service.client.problems import job_error
from bitplan.service.client.requests import job_id, key_of, make_request
from bitplan.service.client.sources import digest_in, json_body, read_artefact
from bitplan.service.client.steps import Flow, Pause, Send, Watching
from bitplan.service.client.watching import PATIENCE_S, watching
from bitplan.service.records import Job, JobRequest, State

MOST_A_PAGE = 200


class Verbs:
    """Flows of one service."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def submit(
        self,
        what: str | JobRequest,
        /,
        *,
        priority: int = 0,
        limits: Mapping[str, float] | None = None,
        label: str = "",
        idempotency_key: str | None = None,
        **parameters: Any,
    ) -> Flow[Job]:
        """Ask for a job; returns it, queued.

        Args:
            what: `describe`, `measure`, `allocate`, `compress` or `apply`; or a request that holds
                all but the key.
            priority: -10 to 10; higher runs earlier.
            limits: What it may take: `time_s`, `memory_gb`, `disk_gb`.
            label: A name for people.
            idempotency_key: Two submissions with one key are one job. By default each call has its
                own, which covers that it may be sent again where an answer was lost.
            **parameters: What the library's function of that name takes, as JSON: `model=`,
                `budget_gb=`, ... The model's folder is one of the service's machine.

        Raises:
            InputError: A parameter is unknown, missing or of another form; nothing was sent.
            RefusedError: The service does not allow it.
        """
        request = what
        if isinstance(request, str):
            how = {"priority": priority, "limits": limits or {}, "label": label}
            request = make_request(request, parameters, **how)
        elif parameters:
            raise InputError("A whole request was given, and parameters too. Give one of them.")
        key = {"idempotency-key": key_of(idempotency_key)}
        body = request.model_dump_json().encode()
        return (yield from self._calls.post(Job, "/v1/jobs", body, headers=key))

    def job(self, job: Job | str, /) -> Flow[Job]:
        """A job as it is now."""
        return (yield from self._calls.get(Job, path_of("jobs", job_id(job))))

    def jobs(
        self, *, state: str | None = None, kind: str | None = None, limit: int = 50
    ) -> Flow[list[Job]]:
        """The newest jobs that this token may see; of a state, of a kind."""
        found: list[Job] = []
        before: str | None = None
        while len(found) < limit:
            size = min(limit - len(found), MOST_A_PAGE)
            query = {"state": state, "kind": kind, "limit": size, "before": before}
            page = yield from self._calls.get(JobPage, "/v1/jobs", **query)
            found += page.jobs
            before = page.next
            if before is None or not page.jobs:
                break
        return found

    def cancel(self, job: Job | str, /) -> Flow[Job]:
        """End a job; one that runs ends in a moment, with what it has made."""
        return (yield from self._calls.post(Job, path_of("jobs", job_id(job), "cancel")))

    def retry(self, job: Job | str, /) -> Flow[Job]:
        """Queue a job again that failed or was cancelled; it goes on from what it had done."""
        path = path_of("jobs", job_id(job), "retry")
        return (yield from self._calls.post(Job, path, repeatable=False))

    def watch(self, job: Job | str, /, *, after: int = 0) -> Watching:
        """Yield a job's events, those of the past first, until it has ended.

        Where the connection or the service goes away, it is asked again for five minutes, and no
        event comes twice.

        Args:
            job: Or its id.
            after: Leave out the events up to this number.
        """
        return watching(self._calls, job, after)

    def wait(
        self, job: Job | str, /, *, timeout_s: float | None = None, progress: Progress = quiet
    ) -> Flow[Job]:
        """Wait until a job has succeeded; returns it.

        Raises:
            JobError: It failed or was cancelled; `JobInputError` where its request cannot be met.
            ServiceError: It has not ended after so many seconds. It goes on.
        """
        name, pause = job_id(job), 0.1
        end = None if timeout_s is None else time.monotonic() + timeout_s
        send = Send(method="GET", path=path_of("jobs", name))
        while True:
            now = yield from self._calls.record(Job, send, patience_s=PATIENCE_S)
            if now.progress is not None:
                progress(now.progress.stage, now.progress.done, now.progress.total)
            if now.state is State.SUCCEEDED:
                return now
            if now.state.has_ended:
                raise job_error(now)
            if end is not None:
                pause = min(pause, end - time.monotonic())
                if pause <= 0:
                    raise ServiceError(
                        f"Job {name} is {now.state} after {timeout_s:g} s. It goes on: wait "
                        "longer, or cancel it."
                    )
            yield Pause(seconds=pause)
            pause = min(1.3 * pause, 3)

    def fetch(
        self,
        job: Job | str,
        folder: str | Path,
        /,
        *,
        only: Sequence[str] = (),
        progress: Progress = quiet,
    ) -> Flow[list[Path]]:
        """Fetch a job's files to a folder; returns their paths.

        Each takes its name when it is whole and its digest right. What is there already is not
        fetched again, and what came of a file goes on where it ended.

        Args:
            job: Or its id.
            folder: Made where it is missing. Files of the same names are replaced.
            only: Names, wildcards or folders, as `plan.json`, `*.html`, `model`. None: all.
            progress: Told bytes.

        Raises:
            RefusedError: It has no such file.
            OutputError: The folder cannot be written to, or has no room.
        """
        names = [only] if isinstance(only, str) else only
        current = yield from self.job(job)
        return (yield from fetching(self._calls, current, Path(folder), names, progress))

    def plan(self, of: Job | str, /) -> Flow[Plan]:
        """The plan that a job made, or that has a digest."""
        digest = yield from self._digest(of, "plan.json")
        send = Send(method="GET", path=path_of("plans", digest))
        return Plan.from_json((yield from self._calls.call(send)).body.decode())

    def table(self, of: Job | str, /) -> Flow[CostTable]:
        """The cost table that a job made, or that has a digest."""
        digest = yield from self._digest(of, "costs.json")
        send = Send(method="GET", path=path_of("tables", digest))
        return CostTable.from_json((yield from self._calls.call(send)).body.decode())

    def upload(self, file: CostTable | Plan | str | Path, /) -> Flow[str]:
        """Give the service a cost table or a plan, or a file of one; returns its digest there.

        A table can then be solved there, and a plan be applied: `submit("apply", plan=digest)`.
        """
        artefact = read_artefact(file)
        path = "/v1/tables" if isinstance(artefact, CostTable) else "/v1/plans/upload"
        body = artefact.to_json().encode()
        return (yield from self._calls.post(Uploaded, path, body)).digest

    def solve(
        self,
        table: Job | str,
        /,
        budget_gb: float,
        *,
        constraints: Mapping[str, Any] | None = None,
        solver: str = "auto",
        time_limit_s: float = 10.0,
    ) -> Flow[Plan]:
        """Solve a table that the service has, by its job or digest, for a budget.

        Args:
            table: A job that made one, or a digest.
            budget_gb: For the whole model, in GB of 10^9 bytes.
            constraints: `pins`, `floors`, `ceilings`, `ties`, `fuse`, `most_schemes`, `runtime`.
            solver: Its name, or auto.
            time_limit_s: Seconds, at most 60.
        """
        digest = yield from self._digest(table, "costs.json")
        asked = {
            "table": digest,
            "budget_gb": budget_gb,
            "constraints": dict(constraints or {}),
            "solver": solver,
            "time_limit_s": time_limit_s,
        }
        solved = yield from self._calls.post(Solved, "/v1/plans", json_body(asked))
        return Plan.from_json(json.dumps(solved.plan))

    def frontier(
        self,
        table: Job | str,
        /,
        *,
        points: int = 50,
        constraints: Mapping[str, Any] | None = None,
    ) -> Flow[Frontier]:
        """The best plans of a table at many sizes, beside uniform and measured ones."""
        digest = yield from self._digest(table, "costs.json")
        asked = {"table": digest, "points": points, "constraints": dict(constraints or {})}
        return (yield from self._calls.post(Frontier, "/v1/frontier", json_body(asked)))

    def models(self) -> Flow[Models]:
        """The models that the service allows."""
        return (yield from self._calls.get(Models, "/v1/models"))

    def describe_model(
        self, model: str, /, *, dtype: str = "auto", context: int = 0, batch: int = 1
    ) -> Flow[ModelSummary]:
        """A model's size and the budgets that it could have, from its headers, in a moment."""
        query = {"model": model, "dtype": dtype, "context": context, "batch": batch}
        return (yield from self._calls.get(ModelSummary, "/v1/models/description", **query))

    def _digest(self, of: Job | str, name: str) -> Flow[str]:
        """The digest that was given, or that of a job's file of this name."""
        if isinstance(of, str) and len(of.strip()) == 64:
            return of.strip()
        return digest_in((yield from self.job(of)), name)
