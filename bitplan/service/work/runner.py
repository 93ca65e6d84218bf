"""One attempt at one job, from its claim to its end."""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bitplan.errors import InputError
from bitplan.service.policy import Policy
from bitplan.service.records import Fault, State
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Claim, LeaseLost, Store
from bitplan.service.work.faults import fault_of
from bitplan.service.work.folders import Folders
from bitplan.service.work.heart import Heart
from bitplan.service.work.ledger import Ledger
from bitplan.service.work.limits import Watch, settled
from bitplan.service.work.process import JobProcess
from bitplan.service.work.task import Task

log = logging.getLogger(__name__)

_LOOK_S = 0.2
"""Between looks at what a process takes and whether it is to stop."""


@dataclass(kw_only=True)
class Course:
    """What became of a process so far."""

    is_done: bool = False
    fault: Fault | None = None
    over: Fault | None = None
    """The limit that it was over."""
    asked_at_s: float | None = None
    """When it was asked to stop."""


class Runner:
    """Runs claimed jobs, each in a process of its own."""

    def __init__(
        self, store: Store, settings: ServiceSettings, is_stopping: threading.Event
    ) -> None:
        self._store, self._settings = store, settings
        self._folders = Folders(settings.work_folder)
        self._policy = Policy.of(settings)
        self._is_stopping = is_stopping

    def run(self, claim: Claim) -> None:
        """Run a job to its end, or until it is to stop, and say in the database what came of it."""
        log.info("Job %s begins, attempt %d", claim.job.id, claim.attempt, extra=_named(claim))
        ledger = Ledger(self._store, claim)
        with Heart(self._store, claim, lease_s=self._settings.lease_s) as heart:
            try:
                self._attempt(claim, heart, ledger)
            except LeaseLost as error:
                log.warning("%s", error, extra=_named(claim))

    def _attempt(self, claim: Claim, heart: Heart, ledger: Ledger) -> None:
        limits = settled(claim.job.request.limits, self._settings)
        try:
            with self._folders.use(claim.job, limit_gb=limits.disk_gb) as folder:
                process = JobProcess(self._task(claim, folder))
                try:
                    watch = Watch(limits=limits, process=process.id, folder=folder)
                    course = self._follow(process, watch, heart, ledger, claim)
                    code = process.exit_code
                finally:
                    process.close()
        except (OSError, InputError) as error:
            log.warning("Job %s cannot be run: %s", claim.job.id, error, extra=_named(claim))
            fault = fault_of(error, self._settings.work_folder)
            self._finish(claim, State.FAILED, fault, heart, ledger)
        else:
            self._end(claim, course, code, heart, ledger)

    def _task(self, claim: Claim, folder: Path) -> Task:
        job = claim.job
        shelf = self._store.artefacts.shelf
        # One that the shelf has lost is made again.
        known = {made.name: made.digest for made in job.artefacts if made.digest in shelf}
        return Task(
            job=job.id,
            parameters=self._policy.named(job.request.parameters),
            workdir=folder,
            shelf=shelf.folder,
            known=known,
        )

    def _follow(
        self, process: JobProcess, watch: Watch, heart: Heart, ledger: Ledger, claim: Claim
    ) -> Course:
        course = Course()
        while not process.is_over:
            for message in process.messages(_LOOK_S):
                if message["kind"] == "done":
                    course.is_done = True
                elif message["kind"] == "fault":
                    course.fault = Fault(**message["fault"])
                else:
                    ledger.take(message)
            ledger.settle()
            if heart.is_lost:
                raise LeaseLost(f"Job {claim.job.id} was taken from attempt {claim.attempt}.")
            if course.asked_at_s is None:
                self._perhaps_stop(process, watch, heart, course, claim)
            elif time.monotonic() - course.asked_at_s > self._settings.grace_s:
                process.kill()
        return course

    def _perhaps_stop(
        self, process: JobProcess, watch: Watch, heart: Heart, course: Course, claim: Claim
    ) -> None:
        course.over = watch.over(claim.used_s + heart.ran_s)
        if course.over is not None and course.over.kind == "MemoryLimitError":
            process.kill()  # what it does until it stops would take more
        elif course.over is not None or heart.is_cancelling or self._is_stopping.is_set():
            process.interrupt()
        else:
            return
        course.asked_at_s = time.monotonic()

    def _end(
        self, claim: Claim, course: Course, code: int | None, heart: Heart, ledger: Ledger
    ) -> None:
        if course.is_done:
            self._finish(claim, State.SUCCEEDED, None, heart, ledger)
        elif course.over is not None:
            self._finish(claim, State.FAILED, course.over, heart, ledger)
        elif heart.is_cancelling:
            self._finish(claim, State.CANCELLED, None, heart, ledger)
        elif course.fault is not None:
            self._finish(claim, State.FAILED, course.fault, heart, ledger)
        elif course.asked_at_s is not None:
            self._release(claim, None, heart, ledger)
        else:
            self._release(claim, _death(code), heart, ledger)

    def _finish(
        self, claim: Claim, state: State, fault: Fault | None, heart: Heart, ledger: Ledger
    ) -> None:
        ran_s = heart.ran_s
        is_told = ledger.close(
            lambda: self._store.claims.finish(claim, state, fault, ran_s=ran_s),
            patience_s=self._settings.lease_s,
        )
        what = state.value if is_told else "over, but not by this attempt"
        log.info("Job %s is %s", claim.job.id, what, extra=_named(claim))

    def _release(self, claim: Claim, reason: str | None, heart: Heart, ledger: Ledger) -> None:
        ran_s = heart.ran_s
        ledger.close(
            lambda: self._store.claims.release(claim, ran_s=ran_s, reason=reason),
            patience_s=self._settings.lease_s,
        )
        log.info("Job %s is given back: %s", claim.job.id, reason, extra=_named(claim))


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"Its process was ended by signal {-code}"
    return f"Its process ended with code {code} and without a word"


def _named(claim: Claim) -> dict[str, object]:
    """For structured logs."""
    return {"job_id": claim.job.id, "attempt": claim.attempt, "worker": claim.worker}
