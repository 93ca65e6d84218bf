"""A job's own process, as it sees itself: ends with its worker, stops when told, says why it fails.

The server of processes imports this file once, with the whole library, and each job is a copy of
that process: a fresh one that begins in milliseconds.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from types import FrameType

from ortools.sat.python import cp_model as _solver  # noqa: F401  # imported here, not by each job
from transformers import LlamaForCausalLM as _model  # noqa: F401

from bitplan.service.work.faults import fault_of, is_ours
from bitplan.service.work.stages import run_task
from bitplan.service.work.task import Desk, Task

STOPPED = 130
_PR_SET_PDEATHSIG = 1


def serve(task: Task, pipe: Connection, watched: Connection) -> None:
    """Do a task, say over the pipe how far it is and how it ends, and exit.

    `watched` is a pipe that nobody writes to, and that ends when the worker does.
    """
    # A session of its own: a terminal's signals go to the worker, and ours to all that it starts.
    os.setsid()
    _end_with_worker(watched)
    desk = Desk(task, pipe)

    def stop(number: int, frame: FrameType | None) -> None:
        desk.is_stopping = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger("bitplan").addHandler(_Told(desk))
    os._exit(_code_of(desk))  # at once: there is nothing to wind up


def _code_of(desk: Desk) -> int:
    try:
        run_task(desk)
        desk.send("done")
        return 0
    except BaseException as error:
        # An interrupt may come out of libraries as an error of theirs.
        if desk.is_stopping:
            return STOPPED
        try:
            fault = fault_of(error, desk.task.workdir)
            if is_ours(error):
                desk.send("log", level="error", message=traceback.format_exc())
            elif fault.message != str(error):
                desk.send("log", level="error", message=str(error))
            desk.send("fault", fault=fault.model_dump())
        except (KeyboardInterrupt, OSError):
            return STOPPED
        return 1


def _end_with_worker(watched: Connection) -> None:
    """By two means, as each alone has a gap: the first is Linux's, the second takes a thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def wait() -> None:
        try:
            watched.recv_bytes()
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


class _Told(logging.Handler):
    """Warnings of the library are events of the job."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(logging.WARNING)
        self._desk = desk

    def emit(self, record: logging.LogRecord) -> None:
        """Send one, unless the job is stopping."""
        if not self._desk.is_stopping:
            self._desk.send("log", level=record.levelname.lower(), message=record.getMessage())
