"""How long work tells how far it is: the library counts, whoever called it shows."""

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar, runtime_checkable

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


@runtime_checkable
class Remarked(Progress, Protocol):
    """A progress that also takes a word on how good things are, beside how far."""

    def remark(self, stage: str, text: str) -> None:
        """Take note of it; it stands until the next."""


def remark(progress: Progress, stage: str, text: str) -> None:
    """Tell a progress that takes remarks; others hear nothing."""
    if isinstance(progress, Remarked):
        progress.remark(stage, text)
