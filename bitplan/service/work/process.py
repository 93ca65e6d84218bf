"""A job's own process, as its worker sees it: started, heard, asked to stop, killed."""

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from types import ModuleType
from typing import Any

from bitplan.service.work.task import Task

_CHILD = "bitplan.service.work.child"

_context = get_context("forkserver")
_context.set_forkserver_preload([_CHILD])

_starting = threading.Lock()


class _Process(ForkServerProcess):
    """One that does not run the main module again, which may be anybody's."""

    def start(self) -> None:
        with _starting:
            main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
            try:
                super().start()
            finally:
                sys.modules["__main__"] = main


class JobProcess:
    """A process that does a task, and the pipes to it."""

    def __init__(self, task: Task) -> None:
        self._pipe, pipe = _context.Pipe(duplex=False)
        watched, self._held = _context.Pipe(duplex=False)
        with pipe, watched:
            self._process = _Process(target=_serve, args=(task, pipe, watched))
            self._process.start()
        self._is_open = True

    @property
    def id(self) -> int:
        """The system's number of it."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives; below zero: minus the signal that ended it."""
        return self._process.exitcode

    @property
    def is_over(self) -> bool:
        """Whether it has ended and all that it said has been heard."""
        return not self._is_open

    def messages(self, wait_s: float) -> Iterator[dict[str, Any]]:
        """What it has said, waiting for it at most so long."""
        found = connection.wait([self._pipe, self._process.sentinel], wait_s)
        if self._process.sentinel in found:
            # What it started would hold the pipe open.
            self._signal(signal.SIGKILL)
            self._process.join()
        with contextlib.suppress(EOFError, OSError):
            while self._pipe.poll():
                yield json.loads(self._pipe.recv_bytes())
        if self._process.sentinel in found:
            self._is_open = False

    def interrupt(self) -> None:
        """Ask it to stop: it keeps what it has, in its work folder."""
        if self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.id, signal.SIGINT)

    def kill(self) -> None:
        """End it at once, and all that it started."""
        if self._process.is_alive():
            self._signal(signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):  # it may have no session of its own yet
                os.kill(self.id, signal.SIGKILL)

    def close(self) -> None:
        """End it, if it lives, and let go of it."""
        self.kill()
        self._process.join()
        self._pipe.close()
        self._held.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.id, number)


def warm_up() -> None:
    """Start the server that processes are copies of, and wait until it has imported the library."""
    process = _Process(target=_nothing)
    process.start()
    process.join()


def _serve(task: Task, pipe: Connection, watched: Connection) -> None:
    from bitplan.service.work.child import serve

    serve(task, pipe, watched)


def _nothing() -> None:
    importlib.import_module(_CHILD)
