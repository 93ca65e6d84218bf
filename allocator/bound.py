"""A lower bound on the loss of every choice that fits, with interactions or without."""

from bitplan.allocator.hull import Hull
from bitplan.allocator.interactions import separate
from bitplan.allocator.problem import Problem
from bitplan.allocator.relaxation import Relaxation


def lower_bound(problem: Problem, hull: Hull) -> float:
    """The relaxation's, of the separated problem where rows interact, in nats per token.

    Raises:
        InfeasibleError: nothing fits the budget.
    """
    if problem.interactions is None:
        return Relaxation.of(problem, hull).lower_bound
    alone, rest = separate(problem)
    return Relaxation.of(alone, Hull.of(alone)).lower_bound + rest
