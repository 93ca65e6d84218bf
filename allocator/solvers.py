"""All solvers by name, and which of them "auto" takes."""

from collections.abc import Sequence

import numpy as np

from bitplan.allocator.conflict import explaining
from bitplan.allocator.convex import convex
from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.descent import descent
from bitplan.allocator.dynamic_programming import dynamic_programming
from bitplan.allocator.evolutionary import evolutionary
from bitplan.allocator.greedy import greedy
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.allocator.milp import milp
from bitplan.allocator.problem import Problem, Solution
from bitplan.allocator.quadratic import quadratic
from bitplan.allocator.rules import Rule
from bitplan.allocator.water_filling import water_filling
from bitplan.errors import InputError
from bitplan.schema import CostTable

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
    with explaining(table, problem, rules):
        return SOLVERS[name](problem, hull, time_limit_s=time_limit_s, start=start)


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


def check_solver(name: str, time_limit_s: float = 1.0) -> None:
    """Raise `InputError` for a solver that there is not, or a time limit that is none."""
    if name != "auto" and name not in SOLVERS:
        known = ", ".join(["auto", *SOLVERS])
        raise InputError(f"There is no solver {name!r}. Choose one of {known}.")
    check_time(time_limit_s)


def check_time(limit_s: float) -> None:
    """Raise `InputError` for a time limit that is none."""
    if not limit_s >= 0:
        raise InputError(f"The time limit is {limit_s} s; it must be a number from 0 up.")
