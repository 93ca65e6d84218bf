"""Block coordinate descent: change the rows that promise most, all others held, until none helps.

Source: Tseng and Yun 2009, "Block-coordinate gradient descent method for linearly constrained
nonsmooth separable optimization": the Gauss-Southwell rule takes the block whose linearised gain is
largest. Bytes couple the rows, so the gain is counted at their price in the linearised problem, and
what is searched in a block are single changes and pairs, one row paying for another.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bitplan.allocator.bound import lower_bound
from bitplan.allocator.hull import Hull
from bitplan.allocator.interactions import gradient, separate
from bitplan.allocator.lagrangian import lagrangian
from bitplan.allocator.problem import ROUNDING, Problem, Solution, Status
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.solver import solver
from bitplan.allocator.uniform import uniform_choices

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NAME = "descent"
BLOCK_ITEMS = 512
"""Items of a block, rows x schemes: every pair of them is tried at once."""
DENSE_ITEMS = 4000
"""Up to which the interactions are held densely, in 128 MB: that is faster to take parts of."""


@solver(NAME, interactions=True)
def descent(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """A choice that no change of one row or two improves, the best from several starts.

    The bound is the Gilmore-Lawler bound where rows interact, which can be far off. Source: as in
    the head of this module.
    """
    end = time.monotonic() + time_limit_s
    bound = lower_bound(problem, hull)
    starts = sorted(_starts(problem, hull, start), key=problem.loss_of)
    best, status = starts[0], Status.WITHIN_GAP
    matrix = problem.interactions
    if matrix is not None and problem.loss.size <= DENSE_ITEMS:
        matrix = matrix.toarray()
    for choice in starts:
        best = min(best, _descended(problem, matrix, choice, end), key=problem.loss_of)
        if time.monotonic() >= end:
            status = Status.TIME_LIMIT
            break
    return Solution.of(problem, best, bound, status, NAME)


def _starts(problem: Problem, hull: Hull, start: np.ndarray | None) -> list[np.ndarray]:
    """Choices that fit: without interactions, with their bounds, the best uniform, the given."""
    starts = [lagrangian(problem.alone(), hull).choice]
    if problem.interactions is not None:
        alone = separate(problem)[0]
        starts.append(lagrangian(alone, Hull.of(alone)).choice)
    uniform = [each for each in uniform_choices(problem).values() if problem.fits(each)]
    starts += [min(uniform, key=problem.loss_of)] if uniform else []
    return starts if start is None else [*starts, start]


def _descended(
    problem: Problem, matrix: np.ndarray | csr_array | None, choice: np.ndarray, end: float
) -> np.ndarray:
    """A choice that no pair of blocks improves, or what it is when the time is up."""
    loss = problem.loss_of(choice)
    while time.monotonic() < end:
        linear = gradient(problem, choice)
        for block in _blocks(problem, linear, choice):
            if time.monotonic() >= end:
                return choice
            other = _within(problem, matrix, linear, choice, block)
            # The changes are found by sums that round; what counts is the loss itself.
            if (less := problem.loss_of(other)) < loss:
                choice, loss = other, less
                break
        else:
            return choice
    return choice


def _blocks(problem: Problem, linear: np.ndarray, choice: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of two parts at a time, each part with each, those of the largest gain first."""
    lowest = linear.min(axis=1, where=problem.legal, initial=np.inf, keepdims=True)
    linearised = replace(problem.alone(), loss=np.where(problem.legal, linear - lowest, np.inf))
    reduced = Relaxation.of(linearised, Hull.of(linearised)).reduced
    others = reduced.copy()
    others[np.arange(len(choice)), choice] = np.inf
    gain = problem.at(choice, reduced) - others.min(axis=1)
    order = np.argsort(-gain, kind="stable")
    size = max(1, BLOCK_ITEMS // (2 * problem.loss.shape[1]))
    parts = [order[begin : begin + size] for begin in range(0, order.size, size)]
    for index, part in enumerate(parts):
        if len(parts) == 1:
            yield part
        for other in parts[:index]:
            yield np.concatenate([other, part])


def _within(
    problem: Problem,
    matrix: np.ndarray | csr_array | None,
    linear: np.ndarray,
    choice: np.ndarray,
    block: np.ndarray,
) -> np.ndarray:
    """The choice [rows] with the best change of one or two rows of a block, again and again."""
    choice = choice.copy()
    at, scheme = np.nonzero(problem.legal[block])
    row = block[at]
    loss, size = linear[row, scheme], problem.bytes[row, scheme]
    item = row * problem.loss.shape[1] + scheme
    beside = np.zeros((item.size, item.size)) if matrix is None else _part(matrix, item)
    same = at[:, None] == at
    spare = problem.budget_bytes - problem.bytes_of(choice)
    # Smaller gains are the rounding of the sums below.
    least_gain = ROUNDING * float(np.abs(loss).max())
    while True:
        # The place, among the items, of what each item's row has now.
        now = np.flatnonzero(choice[row] == scheme)[at]
        added, extra = loss - loss[now], size - size[now]
        with_now = beside[:, now]
        # A pair with a scheme that a row has already is a change of one row.
        total = added[:, None] + added + beside - with_now - with_now.T + with_now[now]
        total[(extra[:, None] + extra > spare) | same] = np.inf
        one, two = np.unravel_index(np.argmin(total), total.shape)
        if not total[one, two] < -least_gain:
            return choice
        for new in (one, two):
            choice[row[new]] = scheme[new]
            loss = loss + beside[:, new] - beside[:, now[new]]
            spare -= int(extra[new])


def _part(matrix: np.ndarray | csr_array, items: np.ndarray) -> np.ndarray:
    if isinstance(matrix, np.ndarray):
        return matrix[np.ix_(items, items)]
    return matrix[items][:, items].toarray()
