"""Plans to begin with: the table's best and others that differ, uniform ones, the user's own.

All of them meet in the first selection, so there are few, and where tokens are short fewer still.
"""

from collections.abc import Sequence

import numpy as np

from bitplan.allocator.constraints import Constraints
from bitplan.allocator.plan import check_plan
from bitplan.allocator.problem import Problem
from bitplan.allocator.search.stages import unique
from bitplan.allocator.search.top_plans import top_plans
from bitplan.allocator.search.trust_region import solve_near
from bitplan.allocator.uniform import uniform
from bitplan.schema import Budget, CostTable, Plan

NEARER, FURTHER = 0.7, 1.4
"""Losses to these powers: the table's plan, drawn towards uniform and away from it."""

TOP = 2
"""The table's next best plans that differ from its best, and from each other."""

UNIFORMS = 2
"""Uniform plans: those of least predicted KL among all that fit."""

SHARE = 1 / 8
"""Of all tokens, what measuring the proposals on the first few sequences may take."""


def proposals(
    table: CostTable,
    problem: Problem,
    given: Sequence[Plan],
    others: Sequence[Plan],
    constraints: Constraints,
    *,
    most: int,
) -> list[np.ndarray]:
    """Choices [rows], each once: the given plans first, then what most may be hoped for.

    At most so many come back, but always the given plans and a uniform one. Raises `PlanError` for
    one of another model or beyond the constraints.
    """
    for plan in (*given, *others):
        check_plan(table, problem, plan)
    starts = [known_choice(problem, plan) for plan in given]
    budget = Budget(bytes=given[0].budget_bytes)
    even = [known_choice(problem, plan) for plan in uniforms(table, budget, constraints)]
    least = unique([*starts, *even[:1]])
    if len(least) >= most:
        return least
    top = top_plans(problem, starts[:1], TOP)
    found = [*least, _drawn(problem, starts[0], NEARER), *top[:1]]
    found += [known_choice(problem, plan) for plan in others]
    found += [*top[1:], _drawn(problem, starts[0], FURTHER), *even[1:]]
    return unique(found)[:most]


def most_proposals(tokens: int, sequences: int, tokens_each: int) -> int:
    """How many may be measured on so many sequences, if all tokens together are so many."""
    return int(SHARE * tokens) // (sequences * tokens_each)


def known_choice(problem: Problem, plan: Plan) -> np.ndarray:
    """The choice [rows] of a plan of this problem."""
    choice = problem.choice_of(plan.schemes)
    assert choice is not None
    return choice


def uniforms(table: CostTable, budget: Budget, constraints: Constraints) -> list[Plan]:
    """The uniform plans that are tried."""
    fitting = uniform(table, budget, constraints=constraints)
    return sorted(fitting, key=lambda plan: plan.predicted_kl)[:UNIFORMS]


def _drawn(problem: Problem, around: np.ndarray, exponent: float) -> np.ndarray:
    loss = np.where(problem.legal, problem.loss, 0.0) ** exponent
    return solve_near(problem, loss, around)
