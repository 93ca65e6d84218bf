"""The lower convex hull of every row's (bytes, loss) points: all that a linear relaxation sees.

With a price on bytes, a row takes the vertex that minimises loss + price * bytes; as the price
falls, rows climb from vertex to vertex. Sorted by the price at which they happen, these steps solve
the relaxation for every budget at once (Sinha and Zoltners 1979, "The multiple-choice knapsack
problem").
"""

from dataclasses import dataclass

import numpy as np

from bitplan.allocator.problem import Problem
from bitplan.errors import InfeasibleError


@dataclass(frozen=True, kw_only=True, eq=False)
class Hull:
    """The steps of all rows in falling order of price. It does not depend on the budget."""

    first: np.ndarray  # [rows] int, the smallest scheme of each row
    first_bytes: int
    row: np.ndarray  # [steps] int
    target: np.ndarray  # [steps] int, the scheme that the row takes after the step
    price: np.ndarray  # [steps] nats per token and byte, falling
    bytes_after: np.ndarray  # [steps] int64, of all rows after the step
    divisor: int  # the bytes of any two choices differ by a multiple of it

    @classmethod
    def of(cls, problem: Problem) -> "Hull":
        """Walk all rows from vertex to vertex at once, a vertex a round."""
        first = _smallest(problem)
        rows, at = np.arange(len(first)), first
        last = np.full(len(first), np.inf)
        steps: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        while rows.size:
            target, price = _next_vertex(problem.loss[rows], problem.bytes[rows], at)
            more = price > 0
            rows, at, target, last = rows[more], at[more], target[more], last[more]
            # Rounding can make a step dearer than the one before it; the order must not turn round.
            last = np.minimum(price[more], last)
            extra = problem.bytes[rows, target] - problem.bytes[rows, at]
            steps.append((rows, target, last, extra))
            at = target
        row, target, price, extra = (np.concatenate(parts) for parts in zip(*steps, strict=True))
        order = np.argsort(-price, kind="stable")
        first_bytes = problem.bytes_of(first)
        return cls(
            first=first,
            first_bytes=first_bytes,
            row=row[order],
            target=target[order],
            price=price[order],
            bytes_after=first_bytes + np.cumsum(extra[order]),
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
        return int(self.bytes_after[-1]) if self.row.size else self.first_bytes

    def usable(self, budget_bytes: int) -> int:
        """The largest number of bytes within the budget that a choice could have."""
        return budget_bytes - (budget_bytes - self.first_bytes) % self.divisor

    def steps_within(self, budget_bytes: int) -> int:
        """How many steps fit before the first that does not."""
        return int(np.searchsorted(self.bytes_after, budget_bytes, side="right"))

    def after(self, steps: int) -> np.ndarray:
        """The choice [rows] after a number of steps."""
        choice = self.first.copy()
        # A row's steps come in order and the last assignment stays: each row ends at its furthest.
        choice[self.row[:steps]] = self.target[:steps]
        return choice


def _smallest(problem: Problem) -> np.ndarray:
    """The scheme [rows] of fewest bytes, then of least loss."""
    size = np.where(problem.legal, problem.bytes, np.iinfo(np.int64).max)
    smallest = size == size.min(axis=1, keepdims=True)
    return np.argmin(np.where(smallest, problem.loss, np.inf), axis=1)


def _divisor(problem: Problem, first: np.ndarray) -> int:
    """The greatest number that divides every difference of bytes within a row."""
    extra = problem.bytes - problem.at(first, problem.bytes)[:, None]
    return max(int(np.gcd.reduce(extra, axis=None, where=problem.legal, initial=0)), 1)


def _next_vertex(
    loss: np.ndarray, size: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The next vertex [rows] from `at` [rows], and the loss that it saves for each byte it adds.

    Where nothing saves any, the price is 0. Of vertices on one line the nearest is taken.
    """
    rows = np.arange(len(at))
    gain = loss[rows, at][:, None] - loss
    extra = size - size[rows, at][:, None]
    price = np.where((gain > 0) & (extra > 0), gain, 0.0)
    np.divide(price, extra, out=price, where=extra > 0)
    best = price.max(axis=1)
    nearest = np.where(price == best[:, None], extra, np.iinfo(np.int64).max)
    tied = (price == best[:, None]) & (nearest == nearest.min(axis=1, keepdims=True))
    return np.argmin(np.where(tied, loss, np.inf), axis=1), best
