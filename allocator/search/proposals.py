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
    found = [problem.choice_of(plan.schemes) for plan in given]
    for exponent in EXPONENTS:
        loss = np.where(problem.legal, problem.loss, 0.0) ** exponent
        found.append(solve_near(problem, loss, found[0]))
    found += [problem.choice_of(plan.schemes) for plan in uniforms(table, problem, constraints)]
    return unique([choice for choice in found if choice is not None])


def uniforms(table: CostTable, problem: Problem, constraints: Constraints) -> list[Plan]:
    """The uniform plans that are tried."""
    budget = Budget(bytes=problem.budget_bytes + problem.rest_bytes)
    fitting = uniform(table, budget, constraints=constraints)
    return sorted(fitting, key=lambda plan: plan.predicted_kl)[:UNIFORMS]
