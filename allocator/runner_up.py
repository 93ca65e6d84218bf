"""The best plan in which one row has another scheme than now, all other rows free to move."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bitplan.allocator.branch import forced
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
    most: int | None = None,
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
        solver: as those of `SOLVERS`; where it is exact, so is the answer.
        most: schemes that are tried; of the others the bound counts. None: all that could be best.
    """
    best: Second | None = None
    bound, tried = np.inf, 0
    for scheme in np.argsort(relaxation.reduced[row], kind="stable").tolist():
        reduced = float(relaxation.reduced[row, scheme])
        least = relaxation.lower_bound + reduced
        enough = best is not None and (least >= best.solution.loss or tried == most)
        if enough or reduced == np.inf:
            bound = min(bound, least)
            break
        if scheme == choice[row]:
            continue
        other, its_hull = forced(problem, hull, row, scheme)
        if its_hull.first_bytes > problem.budget_bytes:
            continue
        start = choice.copy()
        start[row] = scheme
        solution = solver(other, its_hull, start=start)
        tried += 1
        bound = min(bound, max(least, solution.lower_bound))
        if best is None or solution.loss < best.solution.loss:
            best = Second(scheme=scheme, solution=solution, lower_bound=0.0)
    return replace(best, lower_bound=min(bound, best.solution.loss)) if best else None
