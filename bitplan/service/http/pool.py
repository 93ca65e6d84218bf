"""A process of its own for what takes the processor: solving, reading tables, describing models.

The web process sends a function's name and arguments and goes on answering meanwhile. A call that
takes too long, or dies of what it was given, takes its process with it; the next call has a new
one.
"""

import asyncio
import contextlib
import importlib
import logging
import multiprocessing
import resource
import signal
import traceback
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from bitplan.errors import InputError
from bitplan.service.http.problems import ProblemError

log = logging.getLogger(__name__)

START_S = 120.0
"""The longest that a process may take to start and import what it needs."""

READY = "ready"

MOST_WAITING = 64
"""Calls that may wait for the process; more are refused at once."""


class Pool:
    """One process, started when it is first needed or by `warm`, and again after it died.

    Args:
        name: for logs and the process list.
        module: of the functions that may be called.
        memory_bytes: of address space that the process may take; None: as much as there is.
    """

    def __init__(self, name: str, module: str, *, memory_bytes: int | None = None) -> None:
        self.name, self.module, self.memory_bytes = name, module, memory_bytes
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._is_closed = False

    async def warm(self) -> None:
        """Start the process and import what it needs."""
        with contextlib.suppress(ProblemError):  # it is tried again when it is needed
            await self.call("ready", time_limit_s=START_S)

    async def call(
        self,
        function: str,
        *arguments: Any,
        time_limit_s: float,
        is_wanted: Callable[[], Awaitable[bool]] | None = None,
    ) -> Any:
        """What a function of the module returns.

        Raises `ProblemError`: what the function refused, as 422; 504 when its time was up; 503
        when too many calls wait; 500 when it failed.
        """
        if self._waiting >= MOST_WAITING:
            raise _busy()
        self._waiting += 1
        try:
            async with self._turn:
                if is_wanted is not None and not await is_wanted():
                    raise ProblemError(503, "You went away before it was your turn.")
                # A caller that goes away does not stop the thread: the process must be left in
                # order for the next one.
                loop = asyncio.get_running_loop()
                work = loop.run_in_executor(None, self._call, function, arguments, time_limit_s)
                outcome, value = await _through(work)
        finally:
            self._waiting -= 1
        if outcome == "refused":
            kind, message = value
            raise ProblemError(422, message, kind=kind)
        if outcome == "failed":
            raise RuntimeError(f"{function} failed in the {self.name} process:\n{value}")
        return value

    def close(self) -> None:
        """End the process, and start no other."""
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        # The process first: a thread that waits for it then sees the pipe end.
        if process is not None:
            process.kill()
            process.join()
            process.close()
        if pipe is not None:
            pipe.close()

    def _call(self, function: str, arguments: tuple[Any, ...], limit_s: float) -> tuple[str, Any]:
        pipe = self._sent(function, arguments)
        try:
            if pipe.poll(limit_s):
                return pipe.recv()
        except (EOFError, OSError):
            log.error("the %s process died in %s", self.name, function)
            self._end()
            raise ProblemError(
                422,
                "The process that worked on it died, most likely for lack of memory. Ask for less.",
            ) from None
        log.warning("%s took more than %.1f s: its process is stopped", function, limit_s)
        self._end()
        raise ProblemError(
            504, f"That took more than {limit_s:g} s. Ask for less, or submit it as a job."
        )

    def _sent(self, function: str, arguments: tuple[Any, ...]) -> Connection:
        try:
            pipe = self._started()
            pipe.send((function, arguments))
        except (EOFError, OSError):  # it died since the last call, of which this one knows nothing
            self._end()
            if self._is_closed:
                raise ProblemError(503, "The server is about to stop. Try again soon.") from None
            pipe = self._started()
            pipe.send((function, arguments))
        return pipe

    def _started(self) -> Connection:
        if self._pipe is not None and self._process is not None and self._process.is_alive():
            return self._pipe
        self._end()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve,
            args=(theirs, self.module, self.memory_bytes),
            name=f"bitplan-{self.name}",
            daemon=True,
        )
        process.start()
        theirs.close()
        self._process, self._pipe = process, ours
        if not ours.poll(START_S) or ours.recv() != READY:
            raise OSError(f"the {self.name} process did not start")
        return ours


async def _through(work: "asyncio.Future[tuple[str, Any]]") -> tuple[str, Any]:
    """Wait for work to its end, even when whoever waits is cancelled; then be cancelled."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await work
        raise


def _busy() -> ProblemError:
    return ProblemError(
        503, "Too many requests wait for the solver. Try again soon.", headers={"Retry-After": "1"}
    )


def _serve(pipe: Connection, module: str, memory_bytes: int | None) -> None:
    """Call functions until the web process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the web process, which ends this
    if memory_bytes is not None:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    functions = vars(importlib.import_module(module))
    pipe.send(READY)
    while True:
        try:
            name, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = "done", functions[name](*arguments)
        except InputError as error:
            answer = "refused", (type(error).__name__, str(error))
        except MemoryError:
            answer = (
                "refused",
                ("memory", "That takes more memory than there is for it. Send less."),
            )
        except Exception:
            answer = "failed", traceback.format_exc()
        pipe.send(answer)
