"""Mixed-integer linear programming in HiGHS, after the relaxation has cut the table to its core."""

import time

import numpy as np

from bitplan.allocator.first_choice import first_choice
from bitplan.allocator.highs import OBJECTIVE, Priced, search
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.allocator.prices import best_prices
from bitplan.allocator.problem import ROUNDING, Problem, Solution, Status
from bitplan.allocator.solver import solver

NAME = "milp"
TOLERANCE = 1e-6 / OBJECTIVE
"""HiGHS ends within an absolute 1e-6 of the optimum, which is this share of the distance between
the bound and the first choice."""
RELATIVE_PRECISION = 1e-9
"""What is nearer to the optimum than this, relative to its loss, is called optimal."""
NEARER = 0.1
"""A choice whose distance from the bound is so much of the last is worth another, finer search."""


@solver(NAME, exact=True, limits=True)
def milp(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """Solve to optimality, but for the tolerances of HiGHS, or until the time limit.

    All limits of the problem are rows of the program. Where the tolerances leave a gap, it is
    stated. Raises `ConflictError` and `TimeLimitError` as `cp_sat` does. Source: Hubara et al. 2020
    (AdaQuant), "Improving Post Training Neural Quantization: Layer-wise Calibration and Integer
    Programming", for the program; Huangfu and Hall 2018, "Parallelizing the dual revised simplex
    method", for HiGHS.
    """
    end = time.monotonic() + time_limit_s
    if problem.is_limited:
        priced = Priced.of(problem, hull, best_prices(problem, time_limit_s / 4))
        return _searched(priced, first_choice(priced, end=end, start=start), end)
    first = lagrangian(problem, hull, start=start)
    return _searched(Priced.of(problem, hull), first.choice, end)


def _searched(priced: Priced, choice: np.ndarray, end: float) -> Solution:
    """The best choice there is, from one [rows] that fits."""
    problem, relaxation = priced.problem, priced.relaxation
    bound = max(relaxation.lower_bound, float(problem.loss.min(axis=1).sum()) * (1 - ROUNDING))
    while True:
        loss, left_s = problem.loss_of(choice), end - time.monotonic()
        if loss - bound <= ROUNDING * loss:
            return Solution.of(problem, choice, bound, Status.WITHIN_GAP, NAME)
        if left_s <= 0:
            return Solution.of(problem, choice, bound, Status.TIME_LIMIT, NAME)
        distance = loss - relaxation.lower_bound
        found = search(priced, relaxation.core(loss), choice, unit=distance, time_limit_s=left_s)
        error = TOLERANCE * distance + priced.rounding
        if found.choice is not None:
            choice = min(found.choice, choice, key=problem.loss_of)
        loss = problem.loss_of(choice)
        bound = max(bound, min(loss, relaxation.lower_bound + found.above) - error)
        if not found.proven or found.choice is None:
            status = Status.TIME_LIMIT if found.late else Status.WITHIN_GAP
            return Solution.of(problem, choice, bound, status, NAME)
        if error <= RELATIVE_PRECISION * loss:
            return Solution.of(problem, choice, loss, Status.WITHIN_GAP, NAME)
        if loss - relaxation.lower_bound > NEARER * distance:
            return Solution.of(problem, choice, bound, Status.WITHIN_GAP, NAME)
