"""The convex relaxation in cvxpy, then rounding that keeps every limit, convex ones included.

Rows may mix schemes in the relaxation: a share [rows, schemes] of each, adding up to one in a row.
Whatever convex constraint cvxpy can state of the shares can be asked for beside the limits.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bitplan.allocator.first_choice import first_choice
from bitplan.allocator.highs import Priced
from bitplan.allocator.hull import Hull
from bitplan.allocator.limited import best_at_hand
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.rounding import Rounding
from bitplan.allocator.scheme_sets import among
from bitplan.allocator.shares import Shares
from bitplan.allocator.solver import solver
from bitplan.errors import InputError

if TYPE_CHECKING:
    from bitplan.allocator.shares import Side

NAME = "convex"
SETS = 8
"""Sets of schemes that are tried where their number is limited."""
MORE = 3
"""Schemes more than that number from which the sets are made."""


@solver(NAME, limits=True)
def convex(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """The relaxation, rounded; `relax_and_round` takes convex side constraints, too.

    All limits are in the relaxation, at most so many schemes among them: the largest shares that
    any row takes of each add up to no more. Raises `ConflictError` and `TimeLimitError` as `cp_sat`
    does.
    """
    if time_limit_s <= 0:
        priced = Priced.of(problem, hull)
        choice = first_choice(priced, end=time.monotonic(), start=start)
        bound = priced.relaxation.lower_bound
        return Solution.of(problem, choice, bound, Status.TIME_LIMIT, NAME)
    return relax_and_round(problem, hull, time_limit_s=time_limit_s, start=start)


def relax_and_round(
    problem: Problem,
    hull: Hull,
    side: Side | None = None,
    *,
    time_limit_s: float = 10.0,
    start: np.ndarray | None = None,
) -> Solution:
    """Solve the convex relaxation, then round it within all limits and the side constraints.

    Source: Boyd and Vandenberghe 2004, "Convex Optimization", the chapter on interior-point methods
    (Clarabel's is one); the rounding is our own.

    Args:
        problem: what to solve.
        hull: of the same rows, at whatever budget.
        side: from the shares, a cvxpy variable [rows, schemes], the constraints that they must
            keep, for example `lambda share: [cp.norm(share[:, 0]) <= 2]`.
        time_limit_s: past it the first rounding that keeps all limits is not improved further.
        start: a choice [rows] to be used where it fits.

    Raises:
        InfeasibleError: nothing fits the budget.
        ConflictError: nothing keeps to all limits.
        TimeLimitError: the time was up before anything was found that does.
        InputError: the side constraints cannot be kept, or no rounding that keeps them was found.
    """
    end = time.monotonic() + time_limit_s
    hull.check(problem)
    shares = Shares(problem, side)
    if side is not None and not shares.is_solved:
        raise InputError(
            f"No mixture of schemes keeps the side constraints within the budget: Clarabel "
            f"calls the relaxation {shares.status}. Loosen them, or raise the budget."
        )
    priced = Priced.of(problem, hull, shares.prices if shares.is_solved else None)
    bound = priced.relaxation.lower_bound
    if shares.is_solved:
        bound = max(bound, shares.lower_bound)
    at_hand = best_at_hand(problem, [start])
    choices = [at_hand, *_rounded(problem, shares, side, end)]
    kept = [each for each in choices if each is not None and shares.side_excess(each) == 0]
    if not kept and side is not None:
        raise InputError(
            "A mixture of schemes keeps the side constraints, but no choice of one scheme for "
            "each layer was found that does. Loosen the constraints, or raise the budget."
        )
    # A rounding that fails is no proof that there is no choice, nor is what Clarabel says.
    choice = min(kept, key=problem.loss_of) if kept else first_choice(priced, end=end)
    part = problem
    if problem.most_schemes is not None:
        part = among(problem, np.isin(np.arange(problem.loss.shape[1]), choice)) or problem
    choice = Rounding(part, shares.aside).improved(choice, end)
    return Solution.of(problem, choice, bound, Status.WITHIN_GAP, NAME)


def _rounded(
    problem: Problem, shares: Shares, side: Side | None, end: float
) -> Iterator[np.ndarray]:
    """Choices [rows] within all limits, from the shares."""
    if not shares.is_solved:
        return
    if problem.most_schemes is None:
        choice = Rounding(problem, shares.aside).repaired(shares.largest)
        if choice is not None:
            yield choice
        return
    for part in itertools.islice(_likely_parts(problem, shares.share), SETS):
        if time.monotonic() >= end:
            return
        yield from _rounded(part, Shares(part, side), side, end)


def _likely_parts(problem: Problem, share: np.ndarray) -> Iterator[Problem]:
    """The problem with as many schemes as it may use, those of the largest shares first."""
    columns, most = np.arange(share.shape[1]), problem.most_schemes or share.shape[1]
    alone = problem.legal[problem.legal.sum(axis=1) == 1].any(axis=0)
    total = share.sum(axis=0) + np.where(alone, len(share), 0)
    first = np.argsort(-total, kind="stable")[: most + MORE]
    sets = itertools.combinations(first.tolist(), min(most, first.size))
    for some in sorted(sets, key=lambda some: -total[list(some)].sum()):
        part = among(problem, np.isin(columns, some))
        if part is not None:
            yield part
