"""The Lagrangian relaxation at one budget: a lower bound, and which schemes can still matter."""

import math
from dataclasses import dataclass

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import ROUNDING, Problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Relaxation:
    """Minimum over all choices of loss + price * (bytes - budget), at the best price.

    Source: Everett 1963, "Generalized Lagrange multiplier method"; at the breakpoint of the hull
    where the budget is crossed the dual is at its maximum, so the bound is that of the linear
    relaxation, of a budget rounded down to what a choice can have.
    """

    choice: np.ndarray  # [rows] int, minimises loss + price * bytes, and fits
    price: float  # nats per token and byte; 0 when the budget does not bind
    lower_bound: float  # nats per token
    reduced: np.ndarray  # [rows, schemes], how much a scheme adds to the bound when it is forced

    @classmethod
    def of(cls, problem: Problem, hull: Hull) -> "Relaxation":
        """Raises `InfeasibleError` where nothing fits."""
        hull.check(problem)
        choice, price = hull.within(problem.budget_bytes)
        loss = problem.at(choice, problem.loss)[:, None]
        size = problem.at(choice, problem.bytes)[:, None]
        # Differences to the choice, not whole terms: price * bytes alone can exceed the losses by
        # orders of magnitude, and cancel.
        reduced = (problem.loss - loss) + price * (problem.bytes - size)
        spare = hull.usable(problem.budget_bytes) - int(size.sum())
        lowest = math.fsum(problem.loss.min(axis=1).tolist())
        bound = max(problem.loss_of(choice) - price * spare, lowest)
        return cls(
            choice=choice,
            price=price,
            lower_bound=bound,
            reduced=np.where(problem.legal, np.maximum(reduced, 0.0), np.inf),
        )

    def core(self, best_loss: float) -> np.ndarray:
        """The schemes [rows, schemes] that a choice of less than `best_loss` can contain."""
        return self.reduced <= self.slack(best_loss)

    def slack(self, best_loss: float) -> float:
        """What the schemes of a choice of less than `best_loss` can add to the bound."""
        return (best_loss - self.lower_bound) + ROUNDING * best_loss
