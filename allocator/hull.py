"""The lower convex hull of every row's (bytes, loss) points: all that a linear relaxation sees.

With a price on bytes, a row takes the vertex that minimises loss + price * bytes; as the price
falls, rows climb from vertex to vertex. In order of the price at which they happen, these steps
solve the relaxation for every budget at once (Sinha and Zoltners 1979, "The multiple-choice
knapsack problem").
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bitplan.allocator.problem import Problem
from bitplan.errors import InfeasibleError

CHUNK = 8192
"""Rows that climb together: what is computed of them stays in the processor's cache."""
SORTED = 20_000
"""Steps among which a budget is looked for by sorting; among more by halving first."""
SAMPLE = 1000
"""Steps whose median halves the others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Hull:
    """The steps of all rows, those of one row in order. It does not depend on the budget.

    They are not sorted by price, which would take longer than all else: a budget only asks where
    in that order it is spent.
    """

    first: np.ndarray  # [rows] int, the smallest scheme of each row
    first_bytes: int
    row: np.ndarray  # [steps] int32
    target: np.ndarray  # [steps] int16, the scheme that the row takes after the step
    price: np.ndarray  # [steps] nats per token and byte; of each row never rising
    extra: np.ndarray  # [steps] int64, bytes that the step adds
    divisor: int  # the bytes of any two choices differ by a multiple of it

    @classmethod
    def of(cls, problem: Problem) -> "Hull":
        """Climb all rows from vertex to vertex, a chunk of rows at a time."""
        rows = len(problem.loss)
        climbs = [_climb(problem, begin, begin + CHUNK) for begin in range(0, rows, CHUNK)]
        first, row, target, price, extra = map(np.concatenate, zip(*climbs, strict=True))
        return cls(
            first=first,
            first_bytes=problem.bytes_of(first),
            row=row,
            target=target,
            price=price,
            extra=extra,
            divisor=_divisor(problem, first),
        )

    def check(self, problem: Problem) -> None:
        """Raise `InfeasibleError` where not even the smallest choice fits."""
        if problem.budget_bytes < self.first_bytes:
            rest = problem.rest_bytes
            raise InfeasibleError(problem.budget_bytes + rest, self.first_bytes + rest)

    @property
    def largest_bytes(self) -> int:
        """Bytes of the rows at their lowest loss: a larger budget is of no use."""
        return self.first_bytes + int(self.extra.sum())

    def last(self) -> np.ndarray:
        """The choice [rows] after all steps, of the lowest loss."""
        return self._after(np.ones(self.row.size, bool))

    def usable(self, budget_bytes: int) -> int:
        """The largest number of bytes within the budget that a choice could have."""
        return budget_bytes - (budget_bytes - self.first_bytes) % self.divisor

    def within(self, budget_bytes: int) -> tuple[np.ndarray, float]:
        """The choice [rows] after the steps, dearest first, before the first that does not fit.

        And the price of that one; 0 where all steps fit.
        """
        step = self.first_beyond(budget_bytes)
        if step is None:
            return self.last(), 0.0
        price = self.price[step]
        taken = self.price > price
        taken[:step] |= self.price[:step] == price
        return self._after(taken), float(price)

    @cached_property
    def path(self) -> "Path":
        """All steps in the order in which a growing budget takes them."""
        order = np.argsort(-self.price, kind="stable")
        return Path(
            first=self.first,
            row=self.row[order],
            target=self.target[order],
            price=self.price[order],
            bytes_after=self.first_bytes + np.cumsum(self.extra[order]),
        )

    def _after(self, taken: np.ndarray) -> np.ndarray:
        choice = self.first.copy()
        # A row's steps come in order and the last assignment stays: each row ends at its furthest.
        choice[self.row[taken]] = self.target[taken]
        return choice

    def first_beyond(self, budget_bytes: int) -> int | None:
        """The first step, in falling order of price, that no longer fits; None where all do."""
        room = budget_bytes - self.first_bytes
        steps = np.arange(self.row.size)
        while steps.size > SORTED:
            price, extra = self.price[steps], self.extra[steps]
            dearer = price > np.median(price[:: steps.size // SAMPLE])
            if not dearer.any():
                break
            total = int(extra[dearer].sum())
            fits = total <= room
            steps = steps[~dearer if fits else dearer]
            room -= total if fits else 0
        steps = steps[np.argsort(-self.price[steps], kind="stable")]
        fitting = int(np.searchsorted(np.cumsum(self.extra[steps]), room, side="right"))
        return int(steps[fitting]) if fitting < steps.size else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """The steps of a hull in falling order of price: the relaxed plans of all budgets."""

    first: np.ndarray  # [rows] int, the smallest scheme of each row
    row: np.ndarray  # [steps] int32
    target: np.ndarray  # [steps] int16, the scheme that the row takes after the step
    price: np.ndarray  # [steps] nats per token and byte, falling
    bytes_after: np.ndarray  # [steps] int64, of all rows after the step

    def steps_within(self, budget_bytes: int) -> int:
        """How many steps fit before the first that does not."""
        return int(np.searchsorted(self.bytes_after, budget_bytes, side="right"))

    def after(self, steps: int) -> np.ndarray:
        """The choice [rows] after a number of steps."""
        choice = self.first.copy()
        # A row's steps come in order and the last assignment stays: each row ends at its furthest.
        choice[self.row[:steps]] = self.target[:steps]
        return choice


class _Climb(NamedTuple):
    """The steps of some rows, in order for each row."""

    first: np.ndarray  # [rows] int, the smallest scheme
    row: np.ndarray  # [steps] int32, counted from the problem's first row
    target: np.ndarray  # [steps] int16, the scheme that the row takes after the step
    price: np.ndarray  # [steps]
    extra: np.ndarray  # [steps] int64, bytes that the step adds


def _climb(problem: Problem, begin: int, end: int) -> _Climb:
    """The steps of the rows from `begin` to before `end`."""
    legal = problem.legal[begin:end].T
    # Schemes first: what is done to all rows at once then runs through memory in order.
    loss = np.ascontiguousarray(problem.loss[begin:end].T)
    size = np.where(legal, problem.bytes[begin:end].T, np.inf)
    smallest = size == size.min(axis=0)
    first = np.argmin(np.where(smallest, loss, np.inf), axis=0)
    row, at, last = np.arange(begin, begin + len(first), dtype=np.int32), first, np.inf
    steps: list[tuple[np.ndarray, ...]] = []
    while row.size:
        target, price, extra = _next_vertex(loss, size, at)
        # Rounding can make a step dearer than the one before it; the order must not turn round.
        last = np.minimum(price, last)
        more = price > 0
        if not more.all():
            row, target, extra, last = row[more], target[more], extra[more], last[more]
            loss, size = loss[:, more], size[:, more]
        steps.append((row, target.astype(np.int16), last, extra.astype(np.int64)))
        at = target
    return _Climb(first, *map(np.concatenate, zip(*steps, strict=True)))


def _next_vertex(
    loss: np.ndarray, size: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The next vertex [rows] from `at` [rows], the loss saved for each byte added, and these bytes.

    Where nothing saves any, the price is 0. Of vertices on one line the nearest is taken. The
    losses and sizes are [schemes, rows]; what is not legal is infinite in both.
    """
    rows = np.arange(len(at))
    extra = size - size[at, rows]
    price = np.zeros_like(loss)
    np.divide(loss[at, rows] - loss, extra, out=price, where=(extra > 0) & (extra < np.inf))
    best = price.max(axis=0)
    tied = price == best
    target = np.argmax(tied, axis=0)
    several = np.flatnonzero(np.count_nonzero(tied, axis=0) > 1)
    if several.size:
        nearest = np.where(tied[:, several], extra[:, several], np.inf)
        target[several] = np.argmin(nearest, axis=0)
    return target, best, extra[target, rows]


def _divisor(problem: Problem, first: np.ndarray) -> int:
    """The greatest number that divides every difference of bytes within a row."""
    extra = problem.bytes - problem.at(first, problem.bytes)[:, None]
    return max(int(np.gcd.reduce(extra, axis=None, where=problem.legal, initial=0)), 1)
