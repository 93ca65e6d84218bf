"""Plans to begin with: the table's best and others that differ, uniform ones, the user's own."""

from collections.abc import Sequence

import numpy as np

from bitplan.allocator.constraints import Constraints
from bitplan.allocator.plan import check_plan
from bitplan.allocator.problem import Problem
from bitplan.allocator.search.stages import unique
from bitplan.allocator.search.trust_region import solve_near
from bitplan.allocator.uniform import uniform
from bitplan.schema import Budget, CostTable, Plan

EXPONENTS = (0.7, 1.4)
"""Losses to these powers: the table's plan, drawn towards uniform and away from it."""

UNIFORMS = 2
"""Uniform plans: those of least predicted KL among all that fit."""


def proposals(
    table: CostTable, problem: Problem, given: Sequence[Plan], constraints: Constraints
) -> list[np.ndarray]:
    """Choices [rows], each once: the given plans first. Raises `PlanError` for one of another model
    or beyond the constraints."""
    for plan in given:
        check_plan(table, problem, plan)
    first, *others = (known_choice(problem, plan) for plan in given)
    found = [first, *others]
    for exponent in EXPONENTS:
        loss = np.where(problem.legal, problem.loss, 0.0) ** exponent
        found.append(solve_near(problem, loss, first))
    budget = Budget(bytes=given[0].budget_bytes)
    found += [known_choice(problem, plan) for plan in uniforms(table, budget, constraints)]
    return unique(found)


def known_choice(problem: Problem, plan: Plan) -> np.ndarray:
    """The choice [rows] of a plan of this problem."""
    choice = problem.choice_of(plan.schemes)
    assert choice is not None
    return choice


def uniforms(table: CostTable, budget: Budget, constraints: Constraints) -> list[Plan]:
    """The uniform plans that are tried."""
    fitting = uniform(table, budget, constraints=constraints)
    return sorted(fitting, key=lambda plan: plan.predicted_kl)[:UNIFORMS]
