"""From shares of schemes to one scheme for each row: within every limit, one change at a time."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from bitplan.allocator.problem import Problem


class Rounding:
    """Changes of one row that break the limits less, or that keep to them and lose less.

    Args:
        problem: the rows and their limits. A most number of schemes is not heeded: of changes to
            one row, none may be nearer to it.
        side: by how much a choice [rows] breaks what the problem does not know of; 0: by nothing.
    """

    def __init__(self, problem: Problem, side: Callable[[np.ndarray], float] | None = None) -> None:
        self.problem, self.side = problem, side
        self.amounts = np.array([amounts for amounts, _ in problem.resources])
        self.most = np.array([most for _, most in problem.resources])

    def excess(self, choice: np.ndarray) -> float:
        """By how much a choice [rows] breaks its limits, each relative to itself; 0: by nothing."""
        taken = self.amounts[:, np.arange(len(choice)), choice]
        return float(self._relative(taken.sum(axis=1))) + self._aside(choice)

    def repaired(self, choice: np.ndarray) -> np.ndarray | None:
        """Within all limits: again and again the cheapest change that breaks them less.

        None where no change does.
        """
        excess = self.excess(choice)
        while excess > 0:
            for other, _, broken in self._changes(choice, excess):
                if broken < excess and (less := broken + self._aside(other)) < excess:
                    choice, excess = other, less
                    break
            else:
                return None
        return choice

    def improved(self, choice: np.ndarray, end: float) -> np.ndarray:
        """Of no more loss: again and again the change that saves most, until a time `end`."""
        while True:
            for other, added, broken in self._changes(choice):
                if added >= 0 or time.monotonic() >= end:
                    return choice
                if broken == 0 and self._aside(other) == 0:
                    choice = other
                    break
            else:
                return choice

    def _changes(
        self, choice: np.ndarray, excess: float = 0.0
    ) -> Iterator[tuple[np.ndarray, float, float]]:
        """Choices [rows] that differ in one row, those that add least loss first.

        With the loss that each adds, and by how much it breaks the problem's limits. Where these
        are broken by an `excess`, and are all there are, those come first that add least for each
        part of it that they take away.

        """
        rows = np.arange(len(choice))
        taken = self.amounts[:, rows, choice]
        after = (taken.sum(axis=1)[:, None] - taken)[:, :, None] + self.amounts
        broken = self._relative(after)
        added = self.problem.loss - self.problem.at(choice, self.problem.loss)[:, None]
        others = self.problem.legal.copy()
        others[rows, choice] = False
        row, scheme = np.nonzero(others)
        key = added[row, scheme]
        if excess > 0 and self.side is None:
            less = excess - broken[row, scheme]
            # What saves loss comes first, however little it takes away.
            costs, helps = key > 0, less > 0
            key = np.where(costs & ~helps, np.inf, key)
            np.divide(key, less, out=key, where=costs & helps)
        for index in np.argsort(key, kind="stable"):
            at = row[index], scheme[index]
            other = choice.copy()
            other[at[0]] = at[1]
            yield other, float(added[at]), float(broken[at])

    def _relative(self, used: np.ndarray) -> np.ndarray:
        """How far amounts [resources, ...] are above the most, added up relative to that."""
        most = self.most.reshape(-1, *[1] * (used.ndim - 1))
        return (np.maximum(used - most, 0) / np.maximum(most, 1)).sum(axis=0)

    def _aside(self, choice: np.ndarray) -> float:
        return 0.0 if self.side is None else self.side(choice)
