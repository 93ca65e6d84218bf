"""What is asked for: a cost table, a budget and constraints, as the problem to be solved."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bitplan.allocator.conflict import largest_bytes, problem_under
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem
from bitplan.allocator.rules import Rule
from bitplan.errors import BudgetError
from bitplan.schema import Budget, CostTable


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A table, what is asked of it, and the problem that both make."""

    table: CostTable
    constraints: Constraints
    rules: Sequence[Rule]
    problem: Problem

    @classmethod
    def of(
        cls, table: CostTable, budget: Budget | float | None, constraints: Constraints
    ) -> "Task":
        """Raises as `solve` does, but for what only solving finds."""
        total = (
            given_budget(budget, constraints) or Budget(bytes=largest_bytes(table))
        ).total_bytes
        rules = constraints.rules(table)
        problem = problem_under(table, total, rules)
        return cls(table=table, constraints=constraints, rules=rules, problem=problem)

    @cached_property
    def hull(self) -> Hull:
        """Of the problem's rows."""
        return Hull.of(self.problem)


def given_budget(budget: Budget | float | None, constraints: Constraints) -> Budget | None:
    """The budget, or None where limits stand for one.

    Raises `BudgetError` for a budget that is none, and where there is nothing that limits a plan.
    """
    if budget is not None:
        return Budget.of(budget)
    if not constraints.limits:
        raise BudgetError(
            "A plan needs either a budget or a limit among its constraints. Give one: "
            "Budget(gb=4.5)."
        )
    return None
