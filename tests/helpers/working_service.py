"""A store, a queue and workers in this process, whose jobs are real."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bitplan.service.records import Job, JobRequest, State
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store
from bitplan.service.supervisor import environment
from bitplan.service.work import Queue, Worker, check

SMALL = {
    "schemes": ["int2", "int4", "bf16"],
    "sequences": 4,
    "search_sequences": 2,
    "held_out_sequences": 2,
    "length": 12,
}
ENDLESS = {"kind": "measure", "sequences": 100_000, "length": 60}
WAIT_S = 300


class Service:
    """A store, a queue, and workers in threads of this process."""

    def __init__(self, folder: Path, model: Path, **settings) -> None:
        given = {"model_folders": [model.parent], "lease_s": 8} | settings
        self.settings = ServiceSettings(folder=folder, **given)
        self.store, self.queue = Store.open(self.settings), Queue.open(self.settings)
        self.model = str(model)

    def submit(self, kind: str = "describe", *, limits: dict | None = None, **more) -> str:
        parameters = {"kind": kind, "model": self.model, **more}
        request = JobRequest.model_validate({"parameters": parameters, "limits": limits or {}})
        check(request, self.settings)
        job, _ = self.store.jobs.submit(request, owner="ann")
        assert self.queue.send(job)
        return job.id

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        worker = Worker(self.settings, self.store, self.queue)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            yield
        finally:
            worker.stop()
            thread.join()

    def wait(self, job_id: str, until: Callable[[Job], bool]) -> Job:
        end_s = time.monotonic() + WAIT_S
        while not until(job := self.store.jobs.get(job_id)):
            assert time.monotonic() < end_s, (job, self.store.jobs.events(job_id)[-5:])
            time.sleep(0.02)
        return job

    def ended(self, job_id: str) -> Job:
        return self.wait(job_id, lambda job: job.state.has_ended)

    def states(self, job_id: str) -> list[str]:
        events = self.store.jobs.events(job_id, limit=10_000)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        return [event.data["state"] for event in events if event.kind == "state"]


def runs_and_tells(job: Job) -> bool:
    return job.state is State.RUNNING and job.progress is not None


def family(process: int) -> list[psutil.Process]:
    """What it started, and what that did."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process).children(recursive=True)
    return []


@contextlib.contextmanager
def worker_process(settings: ServiceSettings) -> Iterator[subprocess.Popen]:
    """A worker of its own, which is killed at the end."""
    command = [sys.executable, "-m", "bitplan.service.work", "--with-stdin"]
    given = {**os.environ, **environment(settings), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=given, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()
