"""A cost table and a budget -> the plan."""

from collections.abc import Sequence

import numpy as np

from bitplan.allocator.conflict import (
    check_feasible,
    explained,
    largest_bytes,
    least_bytes,
    problem_under,
)
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.convex import convex
from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.descent import descent
from bitplan.allocator.dynamic_programming import dynamic_programming
from bitplan.allocator.evolutionary import evolutionary
from bitplan.allocator.greedy import greedy
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.allocator.milp import milp
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import solved_plan
from bitplan.allocator.problem import Problem, Solution
from bitplan.allocator.quadratic import quadratic
from bitplan.allocator.rules import Rule
from bitplan.allocator.water_filling import water_filling
from bitplan.errors import BudgetError, ConflictError, InfeasibleError, InputError
from bitplan.schema import Budget, CostTable, Plan

SOLVERS = {
    each.name: each
    for each in (
        dynamic_programming,
        cp_sat,
        milp,
        lagrangian,
        convex,
        greedy,
        water_filling,
        evolutionary,
        quadratic,
        descent,
    )
}

EXACT_UP_TO = 2_000_000
"""Cells of a table (rows x schemes) up to which an exact solution is a matter of seconds."""

EXACT_PRODUCTS = 5_000
"""Interactions of two schemes up to which an exact solution may be hoped for in seconds."""


def solve(
    table: CostTable,
    budget: Budget | float | None = None,
    *,
    solver: str = "auto",
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
        pins: layer name or wildcard -> the scheme, or the schemes, that it may take. Where several
            match a layer, the last one counts.
        fuse: give the layers that runtimes fuse (q, k and v, ...) one scheme.
        constraints: what else the plan must keep to.
        time_limit_s: seconds after which an exact search settles for what it has.

    Raises:
        InfeasibleError: nothing fits the budget; the message names the smallest that does.
        ConflictError: constraints that cannot hold together, whatever the budget.
        InputError: an unknown solver, or a pin or constraint that cannot be used.
    """
    check_solver(solver, time_limit_s)
    given = Constraints.of(constraints, pins=pins, fuse=fuse)
    budget = given_budget(budget, given) or Budget(bytes=largest_bytes(table))
    rules = given.rules(table)
    problem = problem_under(table, budget.total_bytes, rules)
    name = choose_solver(problem)[0] if solver == "auto" else solver
    solution = run_solver(name, table, rules, problem, Hull.of(problem), time_limit_s=time_limit_s)
    return solved_plan(table, problem, solution)


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


def run_solver(
    name: str,
    table: CostTable,
    rules: Sequence[Rule],
    problem: Problem,
    hull: Hull,
    *,
    time_limit_s: float,
    start: np.ndarray | None = None,
) -> Solution:
    """What a solver says of the problem of a table under rules; a conflict is explained."""
    try:
        return SOLVERS[name](problem, hull, time_limit_s=time_limit_s, start=start)
    except (InfeasibleError, ConflictError) as error:
        if not rules:
            raise
        total = problem.budget_bytes + problem.rest_bytes
        raise explained(table, total, rules) from error


def choose_solver(problem: Problem) -> tuple[str, str]:
    """The name of the solver that "auto" takes for a problem, and the reason."""
    if problem.is_limited and problem.interactions is not None:
        names = ", ".join(problem.limit_names)
        return "quadratic", f"it alone keeps to {names} and takes interactions between layers"
    if problem.is_limited:
        return "cp_sat", f"it is exact and keeps to {', '.join(problem.limit_names)}"
    if problem.interactions is not None:
        products = problem.interactions.nnz // 2
        if products <= EXACT_PRODUCTS:
            return "quadratic", f"{products:,} interactions are few enough to prove the optimum"
        reason = f"{products:,} interactions are more than the {EXACT_PRODUCTS:,} solved exactly"
        return "descent", reason
    cells = problem.loss.size
    if cells <= EXACT_UP_TO:
        return "dynamic_programming", f"{cells:,} cells are few enough to prove the optimum"
    reason = f"{cells:,} cells are more than the {EXACT_UP_TO:,} that are solved exactly"
    return "lagrangian", reason


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


def check_solver(name: str, time_limit_s: float = 1.0) -> None:
    """Raise `InputError` for a solver that there is not, or a time limit that is none."""
    if name != "auto" and name not in SOLVERS:
        known = ", ".join(["auto", *SOLVERS])
        raise InputError(f"There is no solver {name!r}. Choose one of {known}.")
    if not time_limit_s >= 0:
        raise InputError(f"The time limit is {time_limit_s} s; it must be a number from 0 up.")
