"""How long work tells how far it is: the library counts, whoever called it shows."""

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Called as `progress(stage, done, total)`, with `done` rising from 0 to `total`."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note of how far a stage is."""


def quiet(stage: str, done: int, total: int) -> None:
    """The progress that shows nothing."""


def track(items: Iterable[T], stage: str, progress: Progress, total: int = 0) -> Iterator[T]:
    """Yield the items, telling `progress` before the first and after each."""
    total = len(items) if isinstance(items, Sized) else total
    progress(stage, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress(stage, done, total)
