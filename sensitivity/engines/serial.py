"""One task after another, in this process."""

from collections.abc import Callable, Iterable, Iterator

from bitplan.sensitivity.engines.engine import AbstractEngine, R, T


class Serial(AbstractEngine):
    """Needs nothing and starts nothing: the best for little work."""

    def __init__(self, *, workers: int | None = None) -> None:
        """There is one worker, whatever is asked for."""

    def start(self) -> None:
        """Nothing is needed."""

    def stop(self) -> None:
        """Nothing was started."""

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """The results in the order of the tasks."""
        yield from map(function, tasks)
