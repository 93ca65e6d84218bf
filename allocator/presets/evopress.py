"""EvoPress (Sieberling et al. 2024): a (1 + lambda) evolution by level switches.

As in its code (github.com/IST-DASLab/EvoPress, evo_quant_search.py, group_rule "none"): a mutation
raises one to three layers by a level (the smaller of two draws) and lowers others until the budget
is kept; it is dropped where it changes more than ten levels, or adds less than 0.8 of what it
takes. 128 offspring a generation, 150 generations, the parent stays among them. The first parent
is the uniform plan, or, where the budget lies between two, the fittest of some that are lowered
from the larger at random. There fitness is the KL of the model, on more tokens for fewer survivors;
here it is the loss of the table, which needs no stages.
"""

import time

import numpy as np

from bitplan.allocator.bound import lower_bound
from bitplan.allocator.evolutionary import Pace, evolve
from bitplan.allocator.presets.preset import Preset
from bitplan.allocator.presets.two_levels import around_the_budget
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.task import Task

PACE = Pace(parents=1, offspring=128, generations=150, stale=150, most_up=3, least_added=0.8)
FOUNDERS = 128
SEED = 0


def _evolved(task: Task, time_limit_s: float) -> Solution:
    problem, end = task.problem, time.monotonic() + time_limit_s
    low, high = around_the_budget(task)
    founders = [low, *_lowered(problem, low, high)]
    choice, late = evolve(problem, founders, PACE, end)
    status = Status.TIME_LIMIT if late else Status.WITHIN_GAP
    return Solution.of(problem, choice, lower_bound(problem, task.hull), status, "evopress")


def _lowered(problem: Problem, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Choices [founders, rows] with the higher level but for the fewest rows, drawn at random."""
    random = np.random.default_rng(SEED)
    order = np.array([random.permutation(len(low)) for _ in range(FOUNDERS)])
    saved = problem.at(high, problem.bytes) - problem.at(low, problem.bytes)
    spent = problem.bytes_of(high) - np.cumsum(saved[order], axis=1)
    # How many, in their order, are lowered: until what is left fits.
    over = np.column_stack([np.full(FOUNDERS, problem.bytes_of(high)), spent])
    count = (over > problem.budget_bytes).argmin(axis=1)
    rank = np.argsort(order, axis=1)
    return np.where(rank < count[:, None], low, high)


EVOPRESS = Preset(
    name="evopress",
    title="EvoPress",
    source="Sieberling, Kuznedelev, Kurtic, Alistarh 2024, EvoPress: Accurate Dynamic Model "
    "Compression via Evolutionary Search, arXiv 2410.14649",
    objective="the fittest of parent and offspring, which differ by a few levels switched",
    estimators=("single_swaps", "gradient_covariance"),
    menu="neighbouring whole numbers of bits",
    choose=_evolved,
    interactions=True,
)
