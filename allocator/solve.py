"""A cost table and a budget -> the plan."""

from dataclasses import replace

from bitplan.allocator.conflict import (
    check_feasible,
    explained,
    largest_bytes,
    least_bytes,
    problem_under,
)
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import solved_plan
from bitplan.allocator.presets import check_preset, get_preset
from bitplan.allocator.solvers import check_solver, choose_solver, run_solver
from bitplan.allocator.task import Task
from bitplan.errors import ConflictError
from bitplan.schema import Budget, CostTable, Plan


def solve(
    table: CostTable,
    budget: Budget | float | None = None,
    *,
    solver: str = "auto",
    preset: str | None = None,
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
    time_limit_s: float = 10.0,
) -> Plan:
    """The plan of least predicted KL within a budget.

    Args:
        table: what every layer loses in every scheme.
        budget: for the whole model; a number is gigabytes, of 10^9 bytes; None: as much as the
            table can use, where limits among the constraints are what makes a plan small.
        solver: a name of `SOLVERS`, or "auto" to ask `choose_solver`.
        preset: a name of `PRESETS`, in place of a solver: the plan that a published method would
            make of this table, to compare with.
        pins: layer name or wildcard -> the scheme, or the schemes, that it may take. Where several
            match a layer, the last one counts.
        fuse: give the layers that runtimes fuse (q, k and v, ...) one scheme.
        constraints: what else the plan must keep to.
        time_limit_s: seconds after which an exact search settles for what it has.

    Raises:
        InfeasibleError: nothing fits the budget; the message names the smallest that does.
        ConflictError: constraints that cannot hold together, whatever the budget.
        InputError: an unknown solver or preset, or a pin or constraint that cannot be used.
    """
    check_solver(solver, time_limit_s)
    check_preset(preset, solver)
    given = Constraints.of(constraints, pins=pins, fuse=fuse)
    if preset is not None:
        one = get_preset(preset)
        if given.left_out is None:  # no published method knows of it
            given = replace(given, left_out=frozenset())
        return one.plan(table, budget, constraints=given, time_limit_s=time_limit_s)
    task = Task.of(table, budget, given)
    problem = task.problem
    name = choose_solver(problem)[0] if solver == "auto" else solver
    solution = run_solver(name, table, task.rules, problem, task.hull, time_limit_s=time_limit_s)
    return solved_plan(table, problem, solution, given)


def smallest_bytes(
    table: CostTable,
    *,
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
) -> int:
    """Bytes of the whole model under the smallest plan there is.

    Raises:
        ConflictError: constraints that cannot hold together.
        InputError: a pin or constraint that cannot be used.
    """
    rules = Constraints.of(constraints, pins=pins, fuse=fuse).rules(table)
    problem = problem_under(table, largest_bytes(table), rules)
    try:
        return least_bytes(problem) + table.rest_bytes
    except ConflictError as error:
        raise explained(table, largest_bytes(table), rules) from error


def check_budget(
    table: CostTable,
    budget: Budget | float,
    *,
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
) -> None:
    """Raise what `solve` would raise for lack of any plan. Losses do not matter to it."""
    rules = Constraints.of(constraints, pins=pins, fuse=fuse).rules(table)
    check_feasible(table, Budget.of(budget).total_bytes, rules)
