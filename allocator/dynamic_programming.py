"""Dynamic programming over rows: of all partial choices, those that no other one beats.

Source: Pisinger 1995, "A minimal algorithm for the multiple-choice knapsack problem": states are
pairs of bytes and loss, dominated ones are dropped, and so are those whose bound is above the best
choice known. The bound of a state is the relaxation's plus what its schemes add to that (their
reduced costs): all are sums, so that no state needs more than three numbers.
"""

import time
from typing import NamedTuple

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import relax_and_improve
from bitplan.allocator.problem import ROUNDING, Problem, Solution, Status
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.solver import solver

NAME = "dynamic_programming"
MAX_STATES = 100_000
"""After each row, of more states those of least bound go on. Bounds the memory: a state takes 24
bytes while it is alone and 6 for each row to find the way back."""


class _States(NamedTuple):
    """Partial choices. All arrays are [states]."""

    bytes: np.ndarray  # int64, above the smallest schemes
    loss: np.ndarray  # above the least losses
    reduced: np.ndarray  # what the bound of the whole rises by


class _Step(NamedTuple):
    """How the states after a row came about. Both arrays are [states]."""

    parent: np.ndarray  # int32, the state before
    scheme: np.ndarray  # int16


@solver(NAME, exact=True)
def dynamic_programming(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """Solve exactly with at most `MAX_STATES` states, else within what dropped ones allow.

    A dropped state has a bound: all that it could have led to loses at least that much. So the
    answer fits whatever was dropped, and its bound is the least of theirs and of the best loss.
    Source: as in the head of this module.
    """
    end = time.monotonic() + time_limit_s
    relaxation, first = relax_and_improve(problem, hull, start=start)
    if first.gap == 0:
        return first
    search = _Search.of(problem, relaxation, first)
    choice = search.run(end)
    if choice is None:
        return Solution.of(problem, first.choice, first.lower_bound, Status.TIME_LIMIT, NAME)
    choice = min(choice, first.choice, key=problem.loss_of)
    loss = problem.loss_of(choice)
    bound = max(first.lower_bound, min(loss, relaxation.lower_bound + search.dropped))
    return Solution.of(problem, choice, bound, Status.WITHIN_GAP, NAME)


class _Search:
    """The rows that the core leaves open, one after the other, and the states after each."""

    def __init__(
        self, problem: Problem, relaxation: Relaxation, first: Solution, keep: np.ndarray
    ) -> None:
        self.choice = first.choice.copy()
        self.rows = _order(relaxation, keep)
        self.schemes = [np.flatnonzero(keep[row]) for row in self.rows]
        items = list(zip(self.rows, self.schemes, strict=True))
        smallest = np.array([problem.bytes[item].min() for item in items])
        self.costs = [
            _States(
                problem.bytes[item] - size,
                problem.loss[item] - problem.loss[item].min(),
                relaxation.reduced[item],
            )
            for item, size in zip(items, smallest, strict=True)
        ]
        decided = problem.at(first.choice, problem.bytes).sum() - sum(
            problem.bytes[row, first.choice[row]] for row in self.rows
        )
        self.room = problem.budget_bytes - int(decided + smallest.sum())
        self.slack = (first.loss - relaxation.lower_bound) + ROUNDING * first.loss
        self.dropped = np.inf  # what the least bound of a dropped state is above the relaxation's

    @classmethod
    def of(cls, problem: Problem, relaxation: Relaxation, first: Solution) -> "_Search":
        """The search for choices of less loss than the first."""
        keep = relaxation.core(first.loss)
        keep[np.arange(len(keep)), first.choice] = True
        return cls(problem, relaxation, first, keep)

    def run(self, end: float) -> np.ndarray | None:
        """The best choice [rows] of the states that were not dropped; None: the time is up."""
        states = _States(np.zeros(1, np.int64), np.zeros(1), np.zeros(1))
        steps: list[_Step] = []
        for schemes, cost in zip(self.schemes, self.costs, strict=True):
            if time.monotonic() >= end:
                return None
            count = len(states.loss)
            states = _States(*map(_sums, states, cost))
            alive = self._alive(states)
            states = _States(*(values[alive] for values in states))
            parent, scheme = alive % count, schemes[alive // count]
            steps.append(_Step(parent.astype(np.int32), scheme.astype(np.int16)))
            if not alive.size:
                return self.choice
        return self._way_back(steps, int(np.argmin(states.loss)))

    def _alive(self, states: _States) -> np.ndarray:
        """Of the states those that may lead to a better choice, at most `MAX_STATES`."""
        alive = np.flatnonzero((states.bytes <= self.room) & (states.reduced <= self.slack))
        alive = alive[np.lexsort((states.loss[alive], states.bytes[alive]))]
        loss = states.loss[alive]
        lowest_before = np.append(np.inf, np.minimum.accumulate(loss)[:-1])
        alive = alive[loss < lowest_before]
        if alive.size > MAX_STATES:
            strongest = np.argpartition(states.reduced[alive], MAX_STATES)
            dropped = states.reduced[alive[strongest[MAX_STATES:]]]
            self.dropped = min(self.dropped, float(dropped.min()))
            alive = alive[np.sort(strongest[:MAX_STATES])]
        return alive

    def _way_back(self, steps: list[_Step], state: int) -> np.ndarray:
        choice = self.choice.copy()
        for row, step in zip(reversed(self.rows), reversed(steps), strict=True):
            choice[row] = step.scheme[state]
            state = int(step.parent[state])
        return choice


def _order(relaxation: Relaxation, keep: np.ndarray) -> list[int]:
    """The rows with a choice, those whose second scheme raises the bound most come first.

    They multiply the states least, and what is pruned by its bound is pruned early.
    """
    rows = np.flatnonzero(keep.sum(axis=1) > 1)
    reduced = np.where(keep[rows], relaxation.reduced[rows], np.inf)
    second = np.partition(reduced, 1, axis=1)[:, 1] if rows.size else np.zeros(0)
    return rows[np.argsort(-second, kind="stable")].tolist()


def _sums(before: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Every state with every scheme, [schemes * states]."""
    return (cost[:, None] + before).ravel()
