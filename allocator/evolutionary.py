"""Evolution: the fittest of parents and offspring, which differ by a few levels traded for others.

Source: EvoPress (Sieberling et al. 2024, "EvoPress: Accurate Dynamic Model Compression via
Evolutionary Search", arXiv 2410.14649), whose mutation is a level switch that keeps the budget:
some layers go up a level, others down. Here the fitness is the table's loss, not a measured one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitplan.allocator.bound import lower_bound
from bitplan.allocator.hull import Hull
from bitplan.allocator.interactions import interacting
from bitplan.allocator.ladder import Ladder
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.solver import solver
from bitplan.allocator.uniform import uniform_choices

NAME = "evolutionary"
MAX_CELLS = 10_000_000
"""Offspring x rows: of larger problems there are fewer offspring in a generation."""
MAX_CHANGES = 10
"""Levels that a mutation may change in all."""
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How an evolution goes.

    Args:
        parents: mu, how many are kept of a generation.
        offspring: lambda, how many it makes.
        generations: at most.
        stale: how many without a fitter individual end it.
        most_up: levels that a mutation raises at most, of which fewer are likelier.
        least_added: bytes that it must add for each that it takes.
    """

    parents: int = 8
    offspring: int = 64
    generations: int = 1000
    stale: int = 150
    most_up: int = 3
    least_added: float = 0.0


@solver(NAME, interactions=True)
def evolutionary(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """A (mu + lambda) evolution from the uniform choices; the same on every run with time enough.

    The bound is that of the relaxation. Source: as in the head of this module.
    """
    end = time.monotonic() + time_limit_s
    bound = lower_bound(problem, hull)
    founders = [*uniform_choices(problem).values(), hull.first, *([] if start is None else [start])]
    choice, late = evolve(problem, founders, Pace(), end)
    status = Status.TIME_LIMIT if late else Status.WITHIN_GAP
    return Solution.of(problem, choice, bound, status, NAME)


def evolve(
    problem: Problem, founders: Sequence[np.ndarray], pace: Pace, end: float
) -> tuple[np.ndarray, bool]:
    """The fittest choice [rows] of an evolution, and whether the time was up before it ended.

    Args:
        problem: whose losses and bytes count.
        founders: choices [rows] to begin with, of which at least one fits.
        pace: how it goes.
        end: when to be done, by `time.monotonic`.
    """
    evolution = Evolution(problem, pace)
    levels = np.array([evolution.ladder.level(problem, choice) for choice in founders])
    parents, loss = evolution.fittest(levels[evolution.bytes(levels) <= problem.budget_bytes])
    fittest = 0
    for generation in range(pace.generations):
        if time.monotonic() >= end:
            return evolution.ladder.choice(parents[0]), True
        if generation - fittest > pace.stale:
            break
        best = loss[0]
        parents, loss = evolution.fittest(np.vstack([parents, evolution.offspring(parents)]))
        fittest = generation if loss[0] < best else fittest
    return evolution.ladder.choice(parents[0]), False


class Evolution:
    """What selects and what mutates. Levels are [individuals, rows] int16, rungs of the ladder."""

    def __init__(self, problem: Problem, pace: Pace) -> None:
        self.problem, self.pace = problem, pace
        self.ladder = Ladder.of(problem)
        self.random = np.random.default_rng(SEED)
        self.count = max(1, min(pace.offspring, MAX_CELLS // len(problem.loss)))
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
        """The individuals of least loss, different ones, and their losses, rising."""
        loss = self.loss(levels)
        # Of equal losses the first stays: parents before offspring.
        loss, first = np.unique(loss, return_index=True)
        return levels[first[: self.pace.parents]], loss[: self.pace.parents]

    def offspring(self, parents: np.ndarray) -> np.ndarray:
        """Individuals that differ from a parent by levels raised, and others lowered to fit."""
        children = parents[self.random.integers(len(parents), size=self.count)]
        before = self.bytes(children)
        size, added = before, np.zeros_like(before)
        up = self.random.integers(1, self.pace.most_up + 1, (2, self.count)).min(axis=0)
        for change in range(MAX_CHANGES):
            over = size > self.problem.budget_bytes
            step = np.where(change < up, 1, np.where(over, -1, 0))
            more = self._step(children, step)
            size, added = size + more, added + np.maximum(more, 0)
        enough = added >= self.pace.least_added * (before + added - size)
        return children[(size <= self.problem.budget_bytes) & enough]

    def _step(self, levels: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Move one row of each individual, drawn at random, a step [individuals]; bytes added."""
        each = np.arange(len(levels))
        row = self.random.integers(self.rows.size, size=len(levels))
        before = levels[each, row]
        after = np.clip(before + step, 0, self.ladder.rungs[row] - 1)
        levels[each, row] = after
        return self.ladder.bytes[row, after] - self.ladder.bytes[row, before]
