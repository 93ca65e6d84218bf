"""Evolution: the fittest of parents and offspring, which differ by a few levels traded for others.

Source: EvoPress (Sieberling et al. 2024, "EvoPress: Accurate Dynamic Model Compression via
Evolutionary Search", arXiv 2410.14649), whose mutation is a level switch that keeps the budget:
some layers go up a level, others down. Here the fitness is the table's loss, not a measured one.
"""

import time

import numpy as np

from bitplan.allocator.bound import lower_bound
from bitplan.allocator.hull import Hull
from bitplan.allocator.interactions import interacting
from bitplan.allocator.ladder import Ladder
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.solver import solver
from bitplan.allocator.uniform import uniform_choices

NAME = "evolutionary"
PARENTS = 8
OFFSPRING = 64
MAX_CELLS = 10_000_000
"""Offspring x rows: of larger problems there are fewer offspring in a generation."""
GENERATIONS, STALE = 1000, 150
"""At most, and how many without a fitter individual end the evolution."""
MAX_UP, MAX_CHANGES = 3, 10
"""Levels that a mutation raises, of which fewer are likelier, and all that it may change."""
SEED = 0


@solver(NAME, interactions=True)
def evolutionary(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """A (mu + lambda) evolution from the uniform choices; the same on every run with time enough.

    The bound is that of the relaxation. Source: as in the head of this module.
    """
    end = time.monotonic() + time_limit_s
    status, bound = Status.WITHIN_GAP, lower_bound(problem, hull)
    evolution = _Evolution(problem)
    founders = [*uniform_choices(problem).values(), hull.first, *([] if start is None else [start])]
    levels = np.array([evolution.ladder.level(problem, choice) for choice in founders])
    parents, loss = evolution.fittest(levels[evolution.bytes(levels) <= problem.budget_bytes])
    fittest = 0
    for generation in range(GENERATIONS):
        if time.monotonic() >= end:
            status = Status.TIME_LIMIT
            break
        if generation - fittest > STALE:
            break
        best = loss[0]
        parents, loss = evolution.fittest(np.vstack([parents, evolution.offspring(parents)]))
        fittest = generation if loss[0] < best else fittest
    choice = evolution.ladder.choice(parents[0])
    return Solution.of(problem, choice, bound, status, NAME)


class _Evolution:
    """What selects and what mutates. Levels are [individuals, rows] int16, rungs of the ladder."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.ladder = Ladder.of(problem)
        self.random = np.random.default_rng(SEED)
        self.count = max(1, min(OFFSPRING, MAX_CELLS // len(problem.loss)))
        self.rows = np.arange(len(problem.loss))

    def bytes(self, levels: np.ndarray) -> np.ndarray:
        """Bytes of each individual."""
        return self.ladder.bytes[self.rows, levels].sum(axis=1)

    def loss(self, levels: np.ndarray) -> np.ndarray:
        """Loss of each individual, in nats per token."""
        choices = self.ladder.scheme[self.rows, levels]
        loss = self.problem.loss[self.rows, choices].sum(axis=1)
        if self.problem.interactions is not None:
            loss = loss + interacting(self.problem, choices)
        return loss

    def fittest(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The `PARENTS` individuals of least loss, different ones, and their losses, rising."""
        loss = self.loss(levels)
        # Of equal losses the first stays: parents before offspring.
        loss, first = np.unique(loss, return_index=True)
        return levels[first[:PARENTS]], loss[:PARENTS]

    def offspring(self, parents: np.ndarray) -> np.ndarray:
        """Individuals that differ from a parent by levels raised, and others lowered to fit."""
        children = parents[self.random.integers(len(parents), size=self.count)]
        size = self.bytes(children)
        up = self.random.integers(1, MAX_UP + 1, (2, self.count)).min(axis=0)
        for change in range(MAX_CHANGES):
            over = size > self.problem.budget_bytes
            step = np.where(change < up, 1, np.where(over, -1, 0))
            size += self._step(children, step)
        return children[size <= self.problem.budget_bytes]

    def _step(self, levels: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Move one row of each individual, drawn at random, a step [individuals]; bytes added."""
        each = np.arange(len(levels))
        row = self.random.integers(self.rows.size, size=len(levels))
        before = levels[each, row]
        after = np.clip(before + step, 0, self.ladder.rungs[row] - 1)
        levels[each, row] = after
        return self.ladder.bytes[row, after] - self.ladder.bytes[row, before]
