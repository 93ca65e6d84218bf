"""Reverse water-filling: every row is given bits until its loss per weight is that of all others.

BAQ (Zhang et al. 2025, "BAQ: Efficient Bit Allocation Quantization for Large Language Models",
arXiv 2506.05664) assumes that the loss falls fourfold with every bit, loss = c * 4^-b. The best
real-valued bits then are b = log4(c / (n * level)) with n the number of weights: all rows end at
the same loss per weight, the level (the equal-loss structure), except where that would be below the
menu's fewest bits or above its most. As in BAQ, the bits are then rounded to the menu.
"""

import math

import numpy as np

from bitplan.allocator.greedy import fill
from bitplan.allocator.hull import Hull
from bitplan.allocator.ladder import Ladder
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.solver import solver

NAME = "water_filling"


@solver(NAME)
def water_filling(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """The lowest level whose bits, rounded to the menu, fit; what is left over is filled greedily.

    As the level falls, a row comes to its next rung where the real-valued bits pass the middle
    between two. Sorted by the levels at which that happens, the rungs are walked until the budget
    is spent. The bound is the relaxation's, of the true losses. Takes no notice of the time limit
    but for the filling. Source: BAQ, as in the head of this module.
    """
    bound = Relaxation.of(problem, hull).lower_bound
    ladder = Ladder.of(problem)
    bits = 8.0 * ladder.bytes / np.maximum(problem.parameters, 1)[:, None]
    level = _level(problem, (bits[:, 1:] + bits[:, :-1]) / 2)
    row, rung = np.nonzero(np.arange(1, bits.shape[1]) < ladder.rungs[:, None])
    # A stable sort keeps the rungs of one row in order where rounding makes levels equal.
    order = np.argsort(-level[row, rung], kind="stable")
    row, rung = row[order], rung[order]
    spent = hull.first_bytes + np.cumsum(ladder.bytes[row, rung + 1] - ladder.bytes[row, rung])
    fitting = int(np.searchsorted(spent, problem.budget_bytes, side="right"))
    choice = hull.first.copy()
    choice[row[:fitting]] = ladder.scheme[row[:fitting], rung[:fitting] + 1]
    choice = fill(problem, choice, time_limit_s=time_limit_s)
    return Solution.of(problem, choice, bound, Status.WITHIN_GAP, NAME)


def _level(problem: Problem, bits: np.ndarray) -> np.ndarray:
    """log4 of the loss per weight [rows, any] that the law predicts at a number of bits.

    The law of each row is c * 4^-b, with c the geometric mean of what its schemes say.
    """
    weights = np.maximum(problem.parameters, 1)[:, None]
    has = problem.legal & (problem.loss > 0)
    log4 = np.log(problem.loss, out=np.zeros(has.shape), where=has) / math.log(4)
    says = np.where(has, log4 + 8.0 * problem.bytes / weights, 0.0)
    count = has.sum(axis=1, keepdims=True)
    c = np.divide(
        says.sum(axis=1, keepdims=True), count, out=np.full(count.shape, -np.inf), where=count > 0
    )
    return c - np.log(weights) / math.log(4) - bits
