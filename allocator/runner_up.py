"""The best plan in which one row has another scheme than now, all other rows free to move."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem, Solution
from bitplan.allocator.relaxation import Relaxation


@dataclass(frozen=True, kw_only=True, eq=False)
class Second:
    """The best solution found in which a row has another scheme, and a bound on all of them."""

    scheme: int
    solution: Solution
    lower_bound: float


def second(
    problem: Problem,
    hull: Hull,
    relaxation: Relaxation,
    choice: np.ndarray,
    row: int,
    solver: Callable[..., Solution],
) -> Second | None:
    """The runner-up of one row; None where no other scheme of it fits the budget.

    The reduced cost of a scheme bounds what any plan with it loses, so schemes are tried in that
    order until the next cannot beat the best so far.

    Args:
        problem: with the budget.
        hull: of the same rows.
        relaxation: of both.
        choice: the schemes [rows] that the rows have now.
        row: whose scheme is to be another.
        solver: as those of `SOLVERS`, without the time limit: exact, the answer is.
    """
    best: Second | None = None
    bound = np.inf
    for scheme in np.argsort(relaxation.reduced[row], kind="stable").tolist():
        reduced = float(relaxation.reduced[row, scheme])
        least = relaxation.lower_bound + reduced
        if reduced == np.inf or (best is not None and least >= best.solution.loss):
            bound = min(bound, least)
            break
        if scheme == choice[row]:
            continue
        forced, its_hull = _forced(problem, hull, row, scheme)
        if its_hull.first_bytes > problem.budget_bytes:
            continue
        start = choice.copy()
        start[row] = scheme
        solution = solver(forced, its_hull, start=start)
        bound = min(bound, max(least, solution.lower_bound))
        if best is None or solution.loss < best.solution.loss:
            best = Second(scheme=scheme, solution=solution, lower_bound=0.0)
    return replace(best, lower_bound=min(bound, best.solution.loss)) if best else None


def _forced(problem: Problem, hull: Hull, row: int, scheme: int) -> tuple[Problem, Hull]:
    """The problem in which a row has no other scheme, and its hull: all steps but the row's."""
    legal = problem.legal.copy()
    legal[row] = np.arange(legal.shape[1]) == scheme
    forced = replace(
        problem,
        legal=legal,
        loss=np.where(legal, problem.loss, np.inf),
        bytes=np.where(legal, problem.bytes, 0),
    )
    first = hull.first.copy()
    first[row] = scheme
    others = hull.row != row
    extra = np.diff(hull.bytes_after, prepend=hull.first_bytes)[others]
    first_bytes = forced.bytes_of(first)
    return forced, replace(
        hull,
        first=first,
        first_bytes=first_bytes,
        row=hull.row[others],
        target=hull.target[others],
        price=hull.price[others],
        bytes_after=first_bytes + np.cumsum(extra),
    )
