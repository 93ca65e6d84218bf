"""What every engine has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

BYTES_IN_FLIGHT = 1 << 30
"""Tasks that are sent and not yet done may take so many bytes; one may always be."""


class AbstractEngine(ABC):
    """Does tasks, here or elsewhere. Use it within `with engine:`, which stops what it started."""

    def __enter__(self) -> Self:
        """Start what the engine needs, if that is not left to the first task."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop what was started."""
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Get ready for tasks; raises `EngineError` where that is not possible."""

    @abstractmethod
    def stop(self) -> None:
        """End what was started, at once: whoever does a task holds nothing that is not here."""

    @abstractmethod
    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """The results of a function that every process can import, in any order.

        A task is drawn from `tasks` only when there is room for it, so memory is bounded. Raises
        what the function raises, and `EngineError` where no process can be had to run it.
        """


class Room:
    """How many more tasks may be sent: at most so many, of at most `BYTES_IN_FLIGHT` in all."""

    def __init__(self, tasks: int) -> None:
        self.tasks, self.nbytes = tasks, BYTES_IN_FLIGHT

    def take(self, nbytes: int) -> None:
        """A task was sent."""
        self.tasks -= 1
        self.nbytes -= nbytes

    def give(self, nbytes: int) -> None:
        """A task is done."""
        self.tasks += 1
        self.nbytes += nbytes

    @property
    def is_left(self) -> bool:
        """Whether one more task may be sent. Its size is known only when it is drawn."""
        return self.tasks > 0 and self.nbytes > 0
