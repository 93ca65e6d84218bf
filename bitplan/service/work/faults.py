"""Errors as faults: the library's own say what to do, others are kept in the job's log."""

import errno

from bitplan.errors import BitplanError, InputError, OutputError
from bitplan.service.records import Fault


def fault_of(error: BaseException) -> Fault:
    """What people are told of an error."""
    kind = type(error).__name__
    if isinstance(error, BitplanError):
        # That the disk is full is not the request's fault.
        is_input = isinstance(error, InputError) and not isinstance(error, OutputError)
        return Fault(kind=kind, message=str(error), is_input=is_input)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        message = (
            "There is not enough memory for this job. Retry it when the machine has more free, or "
            'set through to "blocks": one block of the model in memory at a time.'
        )
        return Fault(kind="OutOfMemoryError", message=message, is_input=False)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = "The disk is full. Free some space and retry the job: it goes on from there."
        return Fault(kind="OutputError", message=message, is_input=False)
    message = (
        f"bitplan failed with {kind}, which is its fault, not yours. The job's log has the details "
        "for a report; retry it to see whether it comes again."
    )
    return Fault(kind=kind, message=message, is_input=False)


def is_ours(error: BaseException) -> bool:
    """Whether whoever looks for the reason needs the traceback."""
    return not isinstance(error, InputError | MemoryError)
