"""The relaxation's one fraction decided both ways: for rows so large that rounding it down hurts.

At any budget all of the relaxed plan is whole but for one step, the first that does not fit. Where
that is a large row's, such as an embedding's, the room that it would have filled is large too, and
a local search from the plan without it misses the plan with it.
"""

from dataclasses import replace

import numpy as np

from bitplan.allocator.exchange import improve
from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.relaxation import Relaxation

NAME = "branch"
GAP = 1e-3
"""A solution this close to its bound is left as it is."""


def branch(problem: Problem, hull: Hull, *, start: np.ndarray | None = None) -> Solution:
    """The better of two relaxed and improved solutions: without the first step left out, and with.

    Takes what a solver takes, but for the time: it needs a millisecond or two.
    """
    found = _improved(problem, hull, start)
    if found.gap <= GAP:
        return found
    step = hull.first_beyond(problem.budget_bytes)
    if step is None:
        return found
    with_step, its_hull = forced(problem, hull, int(hull.row[step]), int(hull.target[step]))
    if its_hull.first_bytes > problem.budget_bytes:
        return found
    other = _improved(with_step, its_hull, None)
    if other.loss >= found.loss:
        return found
    # The other's own bound is one of the plans with the step alone.
    return Solution.of(problem, other.choice, found.lower_bound, found.status, NAME)


def _improved(problem: Problem, hull: Hull, start: np.ndarray | None) -> Solution:
    """The relaxation's choice after a local search, or that of a start that fits and loses less."""
    relaxation = Relaxation.of(problem, hull)
    choice = improve(problem, relaxation, relaxation.choice)
    if start is not None and problem.fits(start):
        better = problem.loss_of(start) < problem.loss_of(choice)
        choice = improve(problem, relaxation, start) if better else choice
    return Solution.of(problem, choice, relaxation.lower_bound, Status.WITHIN_GAP, NAME)


def forced(problem: Problem, hull: Hull, row: int, scheme: int) -> tuple[Problem, Hull]:
    """The problem in which a row has no other scheme, and its hull: all steps but the row's."""
    legal = problem.legal.copy()
    legal[row] = np.arange(legal.shape[1]) == scheme
    only = replace(
        problem,
        legal=legal,
        loss=np.where(legal, problem.loss, np.inf),
        bytes=np.where(legal, problem.bytes, 0),
    )
    first = hull.first.copy()
    first[row] = scheme
    others = hull.row != row
    return only, replace(
        hull,
        first=first,
        first_bytes=only.bytes_of(first),
        row=hull.row[others],
        target=hull.target[others],
        price=hull.price[others],
        extra=hull.extra[others],
    )
