"""Whole sequences in proportion to weights."""

import math
from collections.abc import Iterator, Sequence


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Split `total` in proportion to weights above zero, by the largest remainder.

    Of equal remainders the first gets more.

    >>> apportion(8, [0.5, 0.3, 0.2])
    [4, 2, 2]
    """
    largest = max(weights)  # the sum of the weights themselves might overflow
    whole = math.fsum(weight / largest for weight in weights)
    exact = [total * (weight / largest) / whole for weight in weights]
    shares = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares


def interleave(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(part, index in part) of all members, so that every beginning holds the parts in proportion.

    >>> list(interleave([2, 1]))
    [(0, 0), (1, 0), (0, 1)]
    """
    places = (
        ((index + 0.5) / count, part, index)
        for part, count in enumerate(counts)
        for index in range(count)
    )
    for _, part, index in sorted(places):
        yield part, index
