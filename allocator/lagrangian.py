"""Lagrangian relaxation and local search: near-optimal at any size, with a bound."""

import numpy as np

from bitplan.allocator.exchange import improve
from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.solver import solver
from bitplan.allocator.uniform import uniform_choices

NAME = "lagrangian"


@solver(NAME)
def lagrangian(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """Solve within a small gap: a millisecond for a model's layers, seconds for 10^6 rows.

    Takes no notice of the time limit. Source: Everett 1963, "Generalized Lagrange multiplier
    method"; the exchanges that follow are our own.
    """
    return relax_and_improve(problem, hull, start=start)[1]


def relax_and_improve(
    problem: Problem, hull: Hull, *, start: np.ndarray | None = None
) -> tuple[Relaxation, Solution]:
    """The solution, and the relaxation that an exact search goes on from."""
    relaxation = Relaxation.of(problem, hull)
    choice = improve(problem, relaxation, relaxation.choice)
    # No uniform plan, and no plan of a smaller budget, may ever be better than the answer.
    others = [other for other in uniform_choices(problem).values() if problem.fits(other)]
    if start is not None and problem.fits(start):
        others.append(start)
    other = min(others, key=lambda it: _about(problem, it), default=choice)
    if _about(problem, other) < _about(problem, choice):
        choice = improve(problem, relaxation, other)
    bound = relaxation.lower_bound
    return relaxation, Solution.of(problem, choice, bound, Status.WITHIN_GAP, NAME)


def _about(problem: Problem, choice: np.ndarray) -> float:
    """The loss of a choice [rows], but for rounding: of 10^6 rows in a tenth of the time."""
    return float(problem.at(choice, problem.loss).sum())
