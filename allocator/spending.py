"""What a plan takes of everything that is limited."""

from bitplan.allocator.constraints import Constraints, leaving_out
from bitplan.allocator.problem import Problem
from bitplan.schema import CostTable, Plan


def spending(table: CostTable, plan: Plan, constraints: Constraints) -> list[str]:
    """A line for every limit, as "3.98 of at most 4 bits per weight on average".

    The plan must keep to the constraints.
    """
    given = leaving_out(constraints, plan)
    problem = Problem.of(table, plan.budget_bytes, constraints=given)
    choice = problem.choice_of(plan.schemes)
    assert choice is not None, "the plan is not of these constraints"
    return [f"{one.unit.number(one.of(choice))} of {one.name}" for one in problem.limits]
