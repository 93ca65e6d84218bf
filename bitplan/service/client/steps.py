"""What a conversation with the service is made of: steps that it asks for, and their outcomes.

A flow is a generator. It yields a step, is sent what came of it, and returns its result; so it can
be run by what waits and by what does not, and be tested without either.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from bitplan.service.records import Event

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Send:
    """Send a request. Its outcome is an `Answer`, with `stream` before its body, or `Lost`."""

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    stream: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, kw_only=True)
class Read:
    """Read on in the streamed answer: some bytes, none at its end, or `Lost`."""


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """Do what takes long without the network, as reading a large file; its outcome is the value."""

    function: Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the service answers; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """There is no answer, or no more of it."""

    reason: str
    was_sent: bool


@dataclass(frozen=True, kw_only=True)
class Done(Generic[T]):
    """A flow has come to its end."""

    value: T


Step: TypeAlias = Send | Read | Pause | Work
Flow: TypeAlias = Generator[Step, Any, T]
Watching: TypeAlias = Generator[Step | Event, Any, None]


def advance(flow: Generator[Any, Any, T], outcome: Any = None) -> Any | Done[T]:
    """Send a flow the outcome of its last step; returns its next one, or `Done`."""
    try:
        return flow.send(outcome)
    except StopIteration as stop:
        return Done(value=stop.value)
