"""A worker: takes jobs from the queue, some at once, and sweeps; what it needs is settings."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable

from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store, StoreUnavailable
from bitplan.service.work.process import warm_up
from bitplan.service.work.queue import Queue
from bitplan.service.work.runner import Runner
from bitplan.service.work.sweeper import Sweeper

log = logging.getLogger(__name__)

_PAUSE_S = 2.0
"""After the database could not be had, before the next try."""


class Worker:
    """Runs jobs in `settings.workers` threads, each job in a process of its own."""

    def __init__(self, settings: ServiceSettings, store: Store, queue: Queue) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._settings, self._store, self._queue = settings, store, queue
        self._is_stopping = threading.Event()
        self._runner = Runner(store, settings, self._is_stopping)
        self._sweeper = Sweeper(store, queue, settings)

    def stop(self) -> None:
        """Have `run` end soon: running jobs keep what they have and are given back."""
        self._is_stopping.set()

    def run(self) -> None:
        """Work until `stop`."""
        slots = [
            threading.Thread(target=self._take, name=f"slot-{number}")
            for number in range(self._settings.workers)
        ]
        for slot in slots:
            slot.start()
        while not self._is_stopping.is_set():
            self._guarded(self._sweeper.sweep)
            self._is_stopping.wait(self._settings.lease_s / 3)
        for slot in slots:
            slot.join()
        self._guarded(self._sweeper.send_forgotten)

    def _take(self) -> None:
        self._guarded(warm_up)
        log.info("Worker %s waits for jobs", self.name)
        while not self._is_stopping.is_set():
            job_id = self._queue.take()
            if job_id is not None:
                self._guarded(lambda job_id=job_id: self._run(job_id))

    def _run(self, job_id: str) -> None:
        claim = self._store.claims.claim(job_id, self.name)
        if claim is None:  # the message came twice, or the job has ended
            return
        self._runner.run(claim)
        if not self._is_stopping.is_set():
            self._sweeper.send_forgotten()  # it may have been given back

    def _guarded(self, deed: Callable[[], object]) -> None:
        try:
            deed()
        except StoreUnavailable as error:
            log.warning("%s", error)
            self._is_stopping.wait(_PAUSE_S)
        except Exception:
            # One job's trouble must not be the end of all others'.
            log.exception("A worker's deed failed")
            self._is_stopping.wait(_PAUSE_S)


def run_worker(settings: ServiceSettings, *, until_stdin_ends: bool = False) -> None:
    """Open store and queue and work until SIGTERM or SIGINT; a second signal ends it at once.

    With `until_stdin_ends` it stops, too, when its standard input ends: when whoever holds the
    other end is no more. Raises `InputError` and `StoreUnavailable` as `Store.open`.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin slow their neighbours
    store = Store.open(settings)
    worker = Worker(settings, store, Queue.open(settings))

    def stop(number: int, frame: object) -> None:
        worker.stop()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if until_stdin_ends:
        threading.Thread(target=_wait_for_end, args=(worker,), daemon=True).start()
    with contextlib.closing(store):
        worker.run()


def _wait_for_end(worker: Worker) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    worker.stop()
