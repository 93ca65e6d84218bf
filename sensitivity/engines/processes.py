"""Several processes on this machine."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType

import torch

from bitplan.errors import EngineError
from bitplan.sensitivity.engines.engine import AbstractEngine, R, Room, T
from bitplan.sensitivity.engines.parcel import call, result_of, wrap

log = logging.getLogger(__name__)

TRIES = 3
"""How many workers one task may take with it."""


class Processes(AbstractEngine):
    """Workers of one thread each. They start with the tasks, and end with this process.

    Each has a pipe of its own: one that is killed, at whatever instant, takes no other with it. A
    `concurrent.futures.ProcessPoolExecutor` shares its queues, loses all workers with the first,
    and waits for ever for the rest of a result that was half written.
    """

    def __init__(self, *, workers: int | None = None) -> None:
        self.workers = workers or cores()
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, _Parcel]] = {}

    def start(self) -> None:
        """Nothing yet: workers start when there is a task for each."""

    def stop(self) -> None:
        """Kill the workers."""
        for worker in (*self._idle, *(worker for worker, _ in self._busy.values())):
            worker.end()
        self._idle.clear()
        self._busy.clear()

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """The results as they come. What a dead worker was about is done again."""
        room, drawn = Room(self.workers), iter(tasks)
        try:
            self._fill(function, drawn, room)
            while self._busy:
                for pipe in wait(list(self._busy)):
                    assert isinstance(pipe, Connection)
                    worker, parcel = self._busy.pop(pipe)
                    try:
                        result = pipe.recv_bytes()
                    except (EOFError, OSError):
                        self._again(worker, parcel)
                        continue
                    self._idle.append(worker)
                    room.give(len(parcel.content))
                    # Before the result is looked at: the worker need not wait for that.
                    self._fill(function, drawn, room)
                    yield result_of(result)
        finally:
            # Of tasks that nobody waits for any more: their results belong to no other.
            for worker, _ in self._busy.values():
                worker.end()
            self._busy.clear()

    def _fill(self, function: Callable[[T], R], tasks: Iterator[T], room: Room) -> None:
        """Send as many tasks as there is room for."""
        while room.is_left:
            task = next(tasks, None)
            if task is None:
                return
            parcel = _Parcel(wrap((function, task)))
            room.take(len(parcel.content))
            self._send(parcel)

    def _send(self, parcel: "_Parcel") -> None:
        worker = self._idle.pop() if self._idle else _Worker()
        self._busy[worker.pipe] = worker, parcel
        # Where it is dead, its pipe tells so when it is read.
        with contextlib.suppress(OSError):
            worker.pipe.send_bytes(parcel.content)

    def _again(self, worker: "_Worker", parcel: "_Parcel") -> None:
        worker.end()
        code = worker.process.exitcode
        if parcel.tries == TRIES:
            raise EngineError(
                f"{TRIES} worker processes died over the same task, the last with exit code {code}"
                ", most likely for want of memory. Free some, use fewer workers, or the engine "
                "serial. What was done is kept: the same command goes on from there."
            )
        log.warning("A worker process died (exit code %s); its task is done again.", code)
        self._send(_Parcel(parcel.content, parcel.tries + 1))


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Parcel:
    content: bytes
    tries: int = 1


class _Process(SpawnProcess):
    def start(self) -> None:
        """Start without the caller's script, which multiprocessing would run in every worker.

        Ctrl-C, which goes to all processes of a terminal, does not reach the worker.
        """
        # What it starts itself lets interrupts through again: it must run before they are blocked.
        resource_tracker.ensure_running()
        with _starting:
            main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                super().start()
            finally:
                sys.modules["__main__"] = main
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_starting = threading.Lock()


class _Worker:
    """A process, and the pipe that it takes tasks from and sends results to."""

    def __init__(self) -> None:
        # Only the worker has the other end, and only this process has this one: each knows by the
        # end of what it reads that the other is no more.
        self.pipe, other = SpawnContext().Pipe()
        self.process = _Process(target=_serve, args=(other,), daemon=True)
        with other:
            self.process.start()

    def end(self) -> None:
        """Stop at once."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(call(pipe.recv_bytes()))


def _end_with_parent() -> None:
    """However that ends, and whatever this worker is about."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
