"""The convex relaxation: every row takes shares of schemes, which add up to one, in cvxpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bitplan.allocator.problem import Problem

if TYPE_CHECKING:
    import cvxpy as cp

    Side = Callable[[cp.Variable], Sequence[cp.Constraint]]

TOLERANCE = 1e-6
"""Relative: the interior-point solver's is 1e-8, but of quantities that can be larger."""
ABSOLUTE = 1e-7
"""The same in units of the largest loss, beside which a sum of others can be small."""


class Shares:
    """The relaxation of a problem with all its limits, as Clarabel leaves it.

    Args:
        problem: what to solve.
        side: from the shares, a cvxpy variable [rows, schemes], the constraints that they must keep
            beside the problem's.
    """

    def __init__(self, problem: Problem, side: Side | None = None) -> None:
        # Imported here because it takes far longer than all the rest of this package.
        import cvxpy as cp

        loss = np.where(problem.legal, problem.loss, 0.0)
        self._unit = float(loss.max()) or 1.0
        self._share = cp.Variable(loss.shape, nonneg=True)
        self._side = [] if side is None else list(side(self._share))
        self._limits, self._rooms, possible = self._linear(problem)
        rules = [
            cp.sum(self._share, axis=1) == 1,
            self._share <= possible,
            *self._limits,
            *self._side,
        ]
        if problem.most_schemes is not None:
            rules.append(cp.sum(cp.max(self._share, axis=0)) <= problem.most_schemes)
        total = cp.sum(cp.multiply(loss / self._unit, self._share))
        self._program = cp.Problem(cp.Minimize(total), rules)
        self._program.solve(solver=cp.CLARABEL)
        self.status: str = self._program.status
        self.is_solved = self.status == cp.OPTIMAL
        if self.is_solved:
            self.share = np.array(self._share.value)  # [rows, schemes]
            # The choice [rows] of the largest.
            self.largest = np.where(problem.legal, self.share, -1.0).argmax(axis=1)

    def _linear(self, problem: Problem) -> tuple[list[cp.Constraint], list[int], np.ndarray]:
        """The limits, what each is divided by, and the schemes that a choice can contain at all."""
        import cvxpy as cp

        limits: list[cp.Constraint] = []
        rooms: list[int] = []
        possible = problem.legal.copy()
        for amounts, most in problem.resources:
            # In units of what the smallest choice leaves, which can be little beside the whole.
            least = np.where(problem.legal, amounts, np.iinfo(np.int64).max).min(axis=1)
            above = np.where(problem.legal, amounts - least[:, None], 0)
            left = int(most - least.sum())
            rooms.append(max(left, 1))
            spare = left / rooms[-1] - cp.sum(cp.multiply(above / rooms[-1], self._share))
            limits.append(cp.NonNeg(spare))
            possible &= above <= left
        return limits, rooms, possible

    @property
    def prices(self) -> np.ndarray:
        """Nats per token and step of all limits but that of bytes, [limits]."""
        duals = [np.asarray(limit.dual_value, float).item() for limit in self._limits[1:]]
        return np.maximum(duals, 0.0) * self._unit / self._rooms[1:]

    @property
    def lower_bound(self) -> float:
        """Nats per token that every choice loses at least."""
        loss = float(np.asarray(self._program.value)) * self._unit
        return loss - TOLERANCE * abs(loss) - ABSOLUTE * self._unit

    @property
    def aside(self) -> Callable[[np.ndarray], float] | None:
        """`side_excess`, if there are side constraints."""
        return self.side_excess if self._side else None

    def side_excess(self, choice: np.ndarray) -> float:
        """By how much a choice [rows] breaks the side constraints; 0: by nothing."""
        self._share.value = np.eye(self._share.shape[1])[choice]
        broken = [float(np.sum(rule.violation())) for rule in self._side]
        # The tolerance is for the arithmetic of cvxpy, not for our choices.
        return sum(amount for amount in broken if amount > 1e-9)
