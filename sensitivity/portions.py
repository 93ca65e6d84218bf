"""As many things at a time as memory may hold."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def portions(things: Iterable[T], size: Callable[[T], float], most: float) -> Iterator[list[T]]:
    """The things in order, as many at a time as take `most` together; a larger one is alone.

    >>> list(portions([1, 2, 3, 9, 1], float, most=5))
    [[1, 2], [3], [9], [1]]
    """
    portion: list[T] = []
    held = 0.0
    for thing in things:
        takes = size(thing)
        if portion and held + takes > most:
            yield portion
            portion, held = [], 0.0
        portion.append(thing)
        held += takes
    if portion:
        yield portion
