"""Plans from the smallest feasible budget to the largest useful one."""

import time
from dataclasses import replace

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import solved_plan
from bitplan.allocator.problem import Problem
from bitplan.allocator.solve import SOLVERS, check_solver, choose_solver
from bitplan.errors import InputError
from bitplan.schema import CostTable, Plan


def frontier(
    table: CostTable,
    *,
    points: int = 20,
    solver: str = "auto",
    pins: Pins | None = None,
    fuse: bool = False,
    time_limit_s: float = 60.0,
) -> list[Plan]:
    """The best plan at evenly spaced budgets, smallest first; its loss never rises.

    Args:
        table: what every layer loses in every scheme.
        points: number of budgets, 2 or more; fewer plans come back where there are fewer budgets.
        solver: a name of `SOLVERS`, or "auto" to ask `choose_solver`.
        pins: as for `solve`.
        fuse: as for `solve`.
        time_limit_s: for all budgets; what one leaves over, the others may use.

    Raises:
        InputError: fewer than two points, an unknown solver, or a pin that cannot be used.
    """
    check_solver(solver, time_limit_s)
    if points < 2:
        raise InputError(f"A frontier of {points} points was asked for; it needs at least 2.")
    problem = Problem.of(table, 0, pins=pins, fuse=fuse)
    hull = Hull.of(problem)
    name = choose_solver(problem)[0] if solver == "auto" else solver
    plans: list[Plan] = []
    start: np.ndarray | None = None
    budgets = _budgets(hull.first_bytes, hull.largest_bytes, points)
    end = time.monotonic() + time_limit_s
    for done, budget_bytes in enumerate(budgets):
        share_s = max(0.0, end - time.monotonic()) / (len(budgets) - done)
        problem = replace(problem, budget_bytes=budget_bytes)
        # The plan of the budget before fits this one too: it is where the search begins.
        solution = SOLVERS[name](problem, hull, time_limit_s=share_s, start=start)
        start = solution.choice
        plans.append(solved_plan(table, problem, solution))
    return plans


def _budgets(smallest: int, largest: int, points: int) -> list[int]:
    """Evenly spaced whole numbers from smallest to largest, each once."""
    span, last = largest - smallest, points - 1
    return sorted({smallest + span * point // last for point in range(points)})
