"""What every published formulation has in common: where it is from, and a plan of any table."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from bitplan.allocator.bound import lower_bound
from bitplan.allocator.conflict import explaining
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.plan import plan_of
from bitplan.allocator.problem import Solution, Status
from bitplan.allocator.solvers import check_time
from bitplan.allocator.task import Task
from bitplan.errors import InputError
from bitplan.schema import Budget, CostTable, Plan

Choose: TypeAlias = Callable[[Task, float], Solution]
"""A task and a number of seconds -> the choice of a method, with a bound that holds."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published method of choosing schemes: its choice among the schemes of a cost table.

    Only how it chooses is reproduced. What it chooses from, sensitivities and schemes, is in the
    table: measure that with the first of `estimators`, in schemes as `menu` says, for the method as
    it was published. The plan of any other table is made all the same, and its status says so.

    Args:
        name: as `solve` takes it.
        title: of the method.
        source: authors, year, title and number of the paper, and where in it; or the software.
        objective: what it minimises or does, in the letters of the paper.
        estimators: names of `bitplan.sensitivity.ESTIMATORS` that measure what it asks for.
        menu: the schemes that the paper chooses from.
        choose: how it chooses.
        limits: whether it keeps to limits beside the bytes.
        interactions: whether it takes interactions between layers; else they are left out of the
            choice, though the plan counts them.
    """

    name: str
    title: str
    source: str
    objective: str
    estimators: tuple[str, ...]
    menu: str
    choose: Choose
    limits: bool = False
    interactions: bool = False

    def plan(
        self,
        table: CostTable,
        budget: Budget | float | None = None,
        *,
        constraints: Constraints | None = None,
        time_limit_s: float = 10.0,
    ) -> Plan:
        """The method's plan of a table, within a budget and constraints.

        Raises:
            InfeasibleError: nothing fits the budget.
            ConflictError: constraints that cannot hold together, whatever the budget.
            InputError: limits beside the bytes that the method does not know, a pin or constraint
                that cannot be used.
        """
        check_time(time_limit_s)
        task = Task.of(table, budget, constraints or Constraints())
        if task.problem.is_limited and not self.limits:
            raise InputError(
                f"The preset {self.name} keeps to the bytes alone, but this plan must also keep to "
                f"{', '.join(task.problem.limit_names)}. Leave that out, or solve without a preset."
            )
        with explaining(table, task.problem, task.rules):
            solution = self._solution(task, time_limit_s)
        return plan_of(
            table,
            task.problem.assignment(solution.choice),
            budget_bytes=task.problem.budget_bytes + task.problem.rest_bytes,
            solver=self.name,
            status=" ".join(
                [f"As {self.title} chooses.", solution.status.value, *self._notes(task)]
            ),
            lower_bound=solution.lower_bound,
            constraints=task.constraints,
        )

    def to_dict(self) -> dict[str, Any]:
        """What it is, as JSON can hold it: all but how it chooses."""
        what = {field.name: getattr(self, field.name) for field in fields(self)}
        del what["choose"]
        return what

    def _solution(self, task: Task, time_limit_s: float) -> Solution:
        task.hull.check(task.problem)
        if task.problem.interactions is None or self.interactions:
            return self.choose(task, time_limit_s)
        found = self.choose(replace(task, problem=task.problem.alone()), time_limit_s)
        late = found.status is Status.TIME_LIMIT
        status = Status.TIME_LIMIT if late else Status.WITHIN_GAP
        bound = lower_bound(task.problem, task.hull)
        return Solution.of(task.problem, found.choice, bound, status, self.name)

    def _notes(self, task: Task) -> list[str]:
        """Where the table is not what the method was published with."""
        notes, estimator = [], task.table.provenance.estimator
        if estimator not in self.estimators:
            notes.append(
                f"Note: it asks for a table of {' or '.join(self.estimators)}, and this one is of "
                f"{estimator}."
            )
        if task.table.interactions and not self.interactions:
            notes.append("Note: it chose without the table's interactions; they are counted here.")
        return notes
