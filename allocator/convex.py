"""The convex relaxation in cvxpy, then rounding that keeps every limit, convex ones included.

Rows may mix schemes in the relaxation: a share [rows, schemes] of each, adding up to one in a row.
Whatever convex constraint cvxpy can state of the shares can be asked for beside the budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.solver import solver
from bitplan.errors import InputError

if TYPE_CHECKING:
    import cvxpy as cp

    Side = Callable[[cp.Variable], Sequence[cp.Constraint]]

NAME = "convex"
TOLERANCE = 1e-6
"""Relative: the interior-point solver's is 1e-8, but of quantities that can be larger."""


@solver(NAME)
def convex(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """The relaxation, rounded; `relax_and_round` takes convex side constraints, too."""
    if time_limit_s <= 0:
        first = Relaxation.of(problem, hull)
        return Solution.of(problem, first.choice, first.lower_bound, Status.TIME_LIMIT, NAME)
    return relax_and_round(problem, hull, lambda share: [], time_limit_s=time_limit_s)


def relax_and_round(
    problem: Problem, hull: Hull, side: Side, *, time_limit_s: float = 10.0
) -> Solution:
    """Solve the convex relaxation, then round it within the budget and the side constraints.

    Source: Boyd and Vandenberghe 2004, "Convex Optimization", section 11.6 for the interior-point
    method (that of Clarabel); the rounding is our own.

    Args:
        problem: what to solve.
        hull: of the same rows, at whatever budget.
        side: from the shares, a cvxpy variable [rows, schemes], the constraints that they must
            keep, for example `lambda share: [cp.norm(share[:, 0]) <= 2]`.
        time_limit_s: past it the first rounding that keeps all limits is not improved further.

    Raises:
        InfeasibleError: nothing fits the budget.
        InputError: the side constraints cannot be kept, or no rounding that keeps them was found.
    """
    end = time.monotonic() + time_limit_s
    bound = Relaxation.of(problem, hull).lower_bound
    relaxed = _Relaxed(problem, side)
    choice = _repaired(relaxed, np.where(problem.legal, relaxed.share, -1.0).argmax(axis=1))
    choice = _improved(relaxed, choice, end)
    bound = max(bound, relaxed.loss - TOLERANCE * abs(relaxed.loss))
    return Solution.of(problem, choice, bound, Status.WITHIN_GAP, NAME)


class _Relaxed:
    """The solved relaxation, and how far a choice is from keeping its limits."""

    def __init__(self, problem: Problem, side: Side) -> None:
        # Imported here because it takes far longer than all the rest of this package.
        import cvxpy as cp

        self.problem = problem
        self.resources = [(problem.bytes, problem.budget_bytes)]
        loss = np.where(problem.legal, problem.loss, 0.0)
        unit = loss.max() or 1.0
        self._share = cp.Variable(loss.shape, nonneg=True)
        self._side = list(side(self._share))
        rules = [cp.sum(self._share, axis=1) == 1, self._share <= problem.legal, *self._side]
        for amounts, most in self.resources:
            # In units of what the smallest choice leaves, which can be little beside the whole.
            least = np.where(problem.legal, amounts, np.iinfo(np.int64).max).min(axis=1)
            above = np.where(problem.legal, amounts - least[:, None], 0)
            room = max(int(most - least.sum()), 1)
            rules.append(
                cp.sum(cp.multiply(above / room, self._share)) <= (most - least.sum()) / room
            )
        program = cp.Problem(cp.Minimize(cp.sum(cp.multiply(loss / unit, self._share))), rules)
        program.solve(solver=cp.CLARABEL)
        if program.status != cp.OPTIMAL:
            raise InputError(
                f"No mixture of schemes keeps the side constraints within the budget: Clarabel "
                f"calls the relaxation {program.status}. Loosen them, or raise the budget."
            )
        self.share = np.asarray(self._share.value)
        self.loss = float(np.asarray(program.value)) * unit

    def excess(self, choice: np.ndarray) -> float:
        """By how much a choice [rows] breaks its limits, each relative to itself; 0: by nothing."""
        total = 0.0
        for amounts, most in self.resources:
            used = int(self.problem.at(choice, amounts).sum())
            total += max(used - most, 0) / max(most, 1)
        if self._side:
            self._share.value = np.eye(self.share.shape[1])[choice]
            broken = [np.sum(rule.violation()) for rule in self._side]
            # The tolerance is for the arithmetic of cvxpy, not for our choices.
            total += float(sum(amount for amount in broken if amount > 1e-9))
        return total


def _repaired(relaxed: _Relaxed, choice: np.ndarray) -> np.ndarray:
    """A choice that keeps all limits: again and again the cheapest change that breaks them less."""
    excess = relaxed.excess(choice)
    while excess > 0:
        for row, scheme, _ in _moves(relaxed.problem, choice):
            other = choice.copy()
            other[row] = scheme
            if (less := relaxed.excess(other)) < excess:
                choice, excess = other, less
                break
        else:
            raise InputError(
                "A mixture of schemes keeps the side constraints, but no choice of one scheme for "
                "each layer was found that does. Loosen the constraints, or raise the budget."
            )
    return choice


def _improved(relaxed: _Relaxed, choice: np.ndarray, end: float) -> np.ndarray:
    """A choice of no more loss: again and again the change that saves most and keeps all limits."""
    while True:
        for row, scheme, added in _moves(relaxed.problem, choice):
            if added >= 0 or time.monotonic() >= end:
                return choice
            other = choice.copy()
            other[row] = scheme
            if relaxed.excess(other) == 0:
                choice = other
                break
        else:
            return choice


def _moves(problem: Problem, choice: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Row, scheme and added loss of all changes of one row, those that add least first."""
    added = problem.loss - problem.at(choice, problem.loss)[:, None]
    others = problem.legal.copy()
    others[np.arange(len(choice)), choice] = False
    row, scheme = np.nonzero(others)
    order = np.argsort(added[row, scheme], kind="stable")
    row, scheme = row[order], scheme[order]
    return zip(row.tolist(), scheme.tolist(), added[row, scheme].tolist(), strict=True)
