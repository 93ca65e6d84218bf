"""A cost table and a budget -> the plan."""

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
from bitplan.allocator.problem import Problem
from bitplan.allocator.quadratic import quadratic
from bitplan.allocator.water_filling import water_filling
from bitplan.errors import InputError
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
    budget: Budget | float,
    *,
    solver: str = "auto",
    pins: Pins | None = None,
    fuse: bool = False,
    time_limit_s: float = 10.0,
) -> Plan:
    """The plan of least predicted KL within a budget.

    Args:
        table: what every layer loses in every scheme.
        budget: for the whole model; a number is gigabytes, of 10^9 bytes.
        solver: a name of `SOLVERS`, or "auto" to ask `choose_solver`.
        pins: layer name or wildcard -> the scheme, or the schemes, that it may take. Where several
            match a layer, the last one counts.
        fuse: give the layers that runtimes fuse (q, k and v, ...) one scheme.
        time_limit_s: seconds after which an exact search settles for what it has.

    Raises:
        InfeasibleError: nothing fits the budget; the message names the smallest that does.
        InputError: an unknown solver, or a pin that cannot be used.
    """
    check_solver(solver, time_limit_s)
    problem = Problem.of(table, Budget.of(budget).total_bytes, pins=pins, fuse=fuse)
    hull = Hull.of(problem)
    name = choose_solver(problem)[0] if solver == "auto" else solver
    return solved_plan(table, problem, SOLVERS[name](problem, hull, time_limit_s=time_limit_s))


def choose_solver(problem: Problem) -> tuple[str, str]:
    """The name of the solver that "auto" takes for a problem, and the reason."""
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


def smallest_bytes(table: CostTable, *, pins: Pins | None = None, fuse: bool = False) -> int:
    """Bytes of the whole model under the smallest plan there is.

    Raises:
        InputError: a pin that cannot be used.
    """
    problem = Problem.of(table, 0, pins=pins, fuse=fuse)
    return Hull.of(problem).first_bytes + table.rest_bytes


def check_solver(name: str, time_limit_s: float = 1.0) -> None:
    """Raise `InputError` for a solver that there is not, or a time limit that is none."""
    if name != "auto" and name not in SOLVERS:
        known = ", ".join(["auto", *SOLVERS])
        raise InputError(f"There is no solver {name!r}. Choose one of {known}.")
    if not time_limit_s >= 0:
        raise InputError(f"The time limit is {time_limit_s} s; it must be a number from 0 up.")
