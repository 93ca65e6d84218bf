"""The relaxation of "differs enough from the choices that are taken": a price on being alike.

Each taken choice has a price on every unit of weight in which the next agrees with it, beside the
price on bytes. At any prices the relaxation bounds all choices that differ enough, and its reduced
costs tell which schemes the better ones can contain.
"""

from dataclasses import dataclass, replace

import numpy as np

from bitplan.allocator.branch import branch
from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem
from bitplan.allocator.relaxation import Relaxation

ROUNDS = 3
"""How often the price of each taken choice is set, on average, at most."""
HALVINGS = 12
"""Of the interval in which a price is looked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Taken:
    """The choices that are taken, and in how much of its weight the next must differ from each."""

    choices: tuple[np.ndarray, ...]  # [rows] each
    weight: np.ndarray  # [rows] int64
    differ: int  # of the weight, 1 or more

    @property
    def most_alike(self) -> int:
        """The weight in which the next may agree with a taken choice."""
        return int(self.weight.sum()) - self.differ

    def excess(self, choice: np.ndarray) -> np.ndarray:
        """Weight [taken] in which a choice [rows] agrees with each, above what it may."""
        alike = [int(self.weight[choice == other].sum()) for other in self.choices]
        return np.array(alike) - self.most_alike


@dataclass(frozen=True, kw_only=True, eq=False)
class Apart:
    """A bound on all choices that differ enough, and the best of them that was met, if any was."""

    lower_bound: float  # nats per token
    reduced: np.ndarray  # [rows, schemes], how much a scheme adds to the bound when it is forced
    choice: np.ndarray | None  # [rows]


def apart(problem: Problem, taken: Taken) -> Apart:
    """Set the price of whichever taken choice is agreed with too much, until none is.

    The bound is one of bytes, so that it holds under other limits too; the choice keeps to them.
    """
    limited, problem = problem, problem.by_bytes_alone()
    prices = np.zeros(len(taken.choices))
    trials = [_Trial.at(problem, taken, prices)]
    for _ in range(ROUNDS * len(prices)):
        excess = taken.excess(trials[-1].choice)
        if (excess <= 0).all():
            break
        index = int(np.argmax(excess))
        low, high = prices[index], max(2 * prices[index], trials[0].steepest(taken))
        for _ in range(HALVINGS):
            prices[index] = (low + high) / 2
            trials.append(_Trial.at(problem, taken, prices))
            if taken.excess(trials[-1].choice)[index] > 0:
                low = prices[index]
            else:
                high = prices[index]
        prices[index] = high
        trials.append(_Trial.at(problem, taken, prices))
    tightest = max(trials, key=lambda trial: trial.lower_bound)
    apart_enough = [t.choice for t in trials if (taken.excess(t.choice) <= 0).all()]
    return Apart(
        lower_bound=tightest.lower_bound,
        reduced=tightest.reduced,
        choice=min(filter(limited.fits, apart_enough), key=problem.loss_of, default=None),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """What the relaxation and a local search come to at some prices [taken]."""

    lower_bound: float
    reduced: np.ndarray
    choice: np.ndarray

    @classmethod
    def at(cls, problem: Problem, taken: Taken, prices: np.ndarray) -> "_Trial":
        loss = problem.loss.copy()
        rows = np.arange(len(loss))
        for choice, price in zip(taken.choices, prices.tolist(), strict=True):
            loss[rows, choice] += price * taken.weight
        priced = replace(problem, loss=loss)
        hull = Hull.of(priced)
        relaxation = Relaxation.of(priced, hull)
        return cls(
            lower_bound=relaxation.lower_bound - float(prices.sum()) * taken.most_alike,
            reduced=relaxation.reduced,
            choice=branch(priced, hull).choice,
        )

    def steepest(self, taken: Taken) -> float:
        """A price at which every row that can leave what is taken does."""
        dearest = np.where(self.reduced < np.inf, self.reduced, 0.0).max(axis=1)
        return float((dearest / taken.weight).max())
