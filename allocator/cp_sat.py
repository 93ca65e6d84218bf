"""The exact solver: a multiple-choice knapsack in OR-tools CP-SAT, cut down to its core first.

The relaxation and its local search give a bound and a good choice; a scheme whose reduced cost
exceeds the distance between the two is in no better choice and is left out, which leaves a small
fraction (the core) to search. One worker and a fixed seed: an answer that is proven optimal is the
same on every run. One that the time limit cut short may not be.

Problems with more limits than that of bytes are `limited`'s, and with a most number of schemes
`scheme_sets`'; both come back to the same core.
"""

import time

import numpy as np

from bitplan.allocator.core import NAME, Core, search
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import relax_and_improve
from bitplan.allocator.limited import best_within_limits
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.scheme_sets import best_of_sets
from bitplan.allocator.solver import solver
from bitplan.errors import InternalError


@solver(NAME, exact=True, limits=True)
def cp_sat(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """Solve to proven optimality, or until the time limit, with the bound reached by then.

    All limits of the problem are honoured. Raises `ConflictError` where nothing fits the budget and
    the limits together, `TimeLimitError` where the time was up before anything was found that does.
    """
    end = time.monotonic() + time_limit_s
    if problem.is_limited:
        solve = best_within_limits if problem.most_schemes is None else best_of_sets
        return solve(problem, end=end, start=start)
    relaxation, first = relax_and_improve(problem, hull, start=start)
    if first.gap == 0:
        return Solution.of(problem, first.choice, first.lower_bound, first.status, NAME)
    left_s = end - time.monotonic()
    if left_s <= 0:
        return Solution.of(problem, first.choice, first.lower_bound, Status.TIME_LIMIT, NAME)
    core = Core.of(problem, relaxation.core(first.loss), first.choice, first.loss)
    found = search(core, left_s)
    if found.proven and found.choice is None:
        raise InternalError(
            'CP-SAT calls a feasible problem infeasible. Solve with solver="lagrangian", and '
            "please report this table."
        )
    # Totals that are equal in units can differ by less than one: the first may be the better.
    choices = [first.choice] if found.choice is None else [found.choice, first.choice]
    choice = min(choices, key=problem.loss_of)
    bound = max(first.lower_bound, found.bound)
    return core.solution(problem, choice, bound, proven=found.proven)
