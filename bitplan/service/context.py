"""What is known of the request that is being answered, for logs and problems."""

from contextvars import ContextVar

_request_id: ContextVar[str] = ContextVar("bitplan_request_id", default="")
_job_id: ContextVar[str] = ContextVar("bitplan_job_id", default="")


def request_id() -> str:
    """Of the request that is being answered; empty outside of one."""
    return _request_id.get()


def set_request_id(value: str) -> None:
    """For what this task does from now on."""
    _request_id.set(value)


def job_id() -> str:
    """The job that the request is about; empty where it is about none."""
    return _job_id.get()


def set_job_id(value: str) -> None:
    """For what this task does from now on."""
    _job_id.set(value)
