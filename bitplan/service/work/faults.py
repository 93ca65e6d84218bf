"""Errors as faults: the library's own say what to do, others are kept in the job's log."""

import contextlib
import errno
import os
import shutil
from pathlib import Path

from bitplan.errors import BitplanError, InputError, OutputError
from bitplan.service.records import Fault


def fault_of(error: BaseException, workdir: Path) -> Fault:
    """What people are told of an error; `workdir` is on the disk that a job fills."""
    kind = type(error).__name__
    if _is_full_disk(error):
        message = (
            f"The disk is full: {_room(workdir)}, and what the job had to keep did not fit. Free "
            "some space there, or ask whoever runs the service to; then retry the job: it goes on "
            "from what it has."
        )
        return Fault(kind="OutputError", message=message, is_input=False)
    if isinstance(error, BitplanError):
        # A place that cannot be written is not the request's fault.
        is_input = isinstance(error, InputError) and not isinstance(error, OutputError)
        return Fault(kind=kind, message=str(error), is_input=is_input)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        message = (
            "There is not enough memory for this job. Retry it when the machine has more free, or "
            'set through to "blocks": one block of the model in memory at a time.'
        )
        return Fault(kind="OutOfMemoryError", message=message, is_input=False)
    message = (
        f"bitplan failed with {kind}, which is its fault, not yours. The job's log has the details "
        "for a report; retry it to see whether it comes again."
    )
    return Fault(kind=kind, message=message, is_input=False)


def is_ours(error: BaseException) -> bool:
    """Whether whoever looks for the reason needs the traceback."""
    return not isinstance(error, InputError | MemoryError)


def _is_full_disk(error: BaseException | None) -> bool:
    """By words, too: safetensors has errors of its own, and another process's have no cause."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(os.strerror(number) in str(error) for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _room(folder: Path) -> str:
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(folder)
        return f"{usage.free / 1e6:,.1f} of {usage.total / 1e6:,.0f} MB are free"
    return "nothing is free"


_FULL = (errno.ENOSPC, errno.EDQUOT)
