"""Lagrangian relaxation and local search: near-optimal at any size, with a bound."""

import numpy as np

from bitplan.allocator.exchange import improve
from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.uniform import uniform_choices

NAME = "lagrangian"


def lagrangian(
    problem: Problem,
    hull: Hull,
    *,
    time_limit_s: float = 10.0,
    start: np.ndarray | None = None,
) -> Solution:
    """Solve within a small gap: a millisecond for a model's layers, a second for 10^6 rows.

    Args:
        problem: what to solve.
        hull: of the same rows, at whatever budget: make it once for many budgets.
        time_limit_s: not needed here; solvers share one signature.
        start: a choice [rows] that is used where it fits and loses less.

    Raises:
        InfeasibleError: nothing fits the budget.
        InputError: there are other limits than that of bytes.
    """
    problem.refuse_limits(NAME)
    return relax_and_improve(problem, hull, start=start)[1]


def relax_and_improve(
    problem: Problem, hull: Hull, *, start: np.ndarray | None = None
) -> tuple[Relaxation, Solution]:
    """The solution, and the relaxation that an exact search goes on from."""
    relaxation = Relaxation.of(problem, hull)
    if problem.budget_bytes >= hull.largest_bytes:
        choice, status = relaxation.choice, Status.UNCONSTRAINED
        bound = problem.loss_of(choice)
        return relaxation, Solution.of(problem, choice, bound, status, NAME)
    choice = improve(problem, relaxation, relaxation.choice)
    # No uniform plan, and no plan of a smaller budget, may ever be better than the answer.
    others = [other for other in uniform_choices(problem).values() if problem.fits(other)]
    if start is not None and problem.fits(start):
        others.append(start)
    other = min(others, key=problem.loss_of, default=choice)
    if problem.loss_of(other) < problem.loss_of(choice):
        choice = improve(problem, relaxation, other)
    bound = relaxation.lower_bound
    return relaxation, Solution.of(problem, choice, bound, Status.WITHIN_GAP, NAME)
