"""Týr-the-Pruner (Li et al. 2025): an evolution over levels far apart, then ever closer ones.

The paper searches how much of each layer is pruned: nine levels around what the layer has now, an
evolution among them at a constant total, then the same around its result with half the distance, in
four rounds from 12.5% to about 1.6%. As in its code (github.com/AMD-AGI/Tyr-the-Pruner,
search_sparsity_dist.py and script/example.sh): one to four levels traded (the smaller of two
draws), 128 offspring, 50 generations a round, the first parent uniform. Here levels are a layer's
schemes in order of size, the distance begins at the largest power of two that a ladder has room
for, eight at most, and a constant total is the budget. There fitness is the KL of the model and
trades are between layers of one kind; here it is the loss of the table and any two may trade.
"""

import time
from dataclasses import replace

import numpy as np

from bitplan.allocator.bound import lower_bound
from bitplan.allocator.evolutionary import Pace, evolve
from bitplan.allocator.ladder import Ladder
from bitplan.allocator.presets.preset import Preset
from bitplan.allocator.presets.two_levels import around_the_budget
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.task import Task

PACE = Pace(parents=1, offspring=128, generations=50, stale=50, most_up=4)
ROUNDS = 4
EACH_WAY = 4
"""Levels above and below the one that a layer has: nine in all."""


def _narrowed(task: Task, time_limit_s: float) -> Solution:
    problem, end = task.problem, time.monotonic() + time_limit_s
    ladder, late = Ladder.of(problem), False
    level = ladder.level(problem, around_the_budget(task)[0])
    rounds = min(ROUNDS, max(1, int(ladder.rungs.max() - 1).bit_length()))
    for distance in (2**power for power in reversed(range(rounds))):
        part = _grid(problem, ladder, level, distance)
        choice, is_late = evolve(part, [ladder.choice(level)], PACE, end)
        level, late = ladder.level(problem, choice), late or is_late
    status = Status.TIME_LIMIT if late else Status.WITHIN_GAP
    bound = lower_bound(problem, task.hull)
    return Solution.of(problem, ladder.choice(level), bound, status, "tyr")


def _grid(problem: Problem, ladder: Ladder, level: np.ndarray, distance: int) -> Problem:
    """The problem with no schemes but those that are some times a distance from a level [rows]."""
    rung = np.arange(ladder.scheme.shape[1]) - level[:, None]
    on_grid = (rung % distance == 0) & (np.abs(rung) <= EACH_WAY * distance)
    on_grid &= np.arange(ladder.scheme.shape[1]) < ladder.rungs[:, None]
    legal = np.zeros_like(problem.legal)
    np.put_along_axis(legal, ladder.scheme, on_grid, axis=1)
    return replace(
        problem,
        legal=legal,
        loss=np.where(legal, problem.loss, np.inf),
        bytes=np.where(legal, problem.bytes, 0),
    )


TYR = Preset(
    name="tyr",
    title="Týr-the-Pruner",
    source="Li, Xu, Li, Liu, Yin, Li, Barsoum 2025, Týr-the-Pruner: Structural Pruning LLMs via "
    "Global Sparsity Distribution Optimization, NeurIPS, arXiv 2503.09657",
    objective="an evolution over nine levels of each layer, in four rounds of halved distance",
    estimators=("single_swaps", "gradient_covariance"),
    menu="many levels; the paper's are shares of heads and channels that are pruned",
    choose=_narrowed,
    interactions=True,
)
