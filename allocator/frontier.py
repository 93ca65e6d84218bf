"""Plans from the smallest feasible budget to the largest useful one."""

import time
from dataclasses import replace
from functools import partial

import numpy as np

from bitplan.allocator.conflict import largest_bytes, problem_under
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.hull import Hull
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import solved_plan
from bitplan.allocator.solve import check_solver, choose_solver, run_solver, smallest_bytes
from bitplan.errors import InputError
from bitplan.schema import CostTable, Plan


def frontier(
    table: CostTable,
    *,
    points: int = 20,
    solver: str = "auto",
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
    time_limit_s: float = 60.0,
) -> list[Plan]:
    """The best plan at evenly spaced budgets, smallest first; its loss never rises.

    Args:
        table: what every layer loses in every scheme.
        points: number of budgets, 2 or more; fewer plans come back where there are fewer budgets.
        solver: a name of `SOLVERS`, or "auto" to ask `choose_solver`.
        pins: as for `solve`.
        fuse: as for `solve`.
        constraints: as for `solve`; they hold in every plan.
        time_limit_s: for all budgets; what one leaves over, the others may use.

    Raises:
        ConflictError: constraints that cannot hold together.
        InputError: fewer than two points, an unknown solver, or a pin that cannot be used.
    """
    check_solver(solver, time_limit_s)
    if points < 2:
        raise InputError(f"A frontier of {points} points was asked for; it needs at least 2.")
    given = Constraints.of(constraints, pins=pins, fuse=fuse)
    rules = given.rules(table)
    problem = problem_under(table, largest_bytes(table), rules)
    hull = Hull.of(problem)
    name = choose_solver(problem)[0] if solver == "auto" else solver
    run = partial(run_solver, name, table, rules)
    plans: list[Plan] = []
    start: np.ndarray | None = None
    smallest, largest = hull.first_bytes, hull.largest_bytes
    if problem.is_limited:
        # The hull knows bytes alone.
        largest = run(problem, hull, time_limit_s=time_limit_s / points).bytes
        smallest = min(largest, smallest_bytes(table, constraints=given) - table.rest_bytes)
    budgets = _budgets(smallest, largest, points)
    end = time.monotonic() + time_limit_s
    for done, budget_bytes in enumerate(budgets):
        share_s = max(0.0, end - time.monotonic()) / (len(budgets) - done)
        problem = replace(problem, budget_bytes=budget_bytes)
        # The plan of the budget before fits this one too: it is where the search begins.
        solution = run(problem, hull, time_limit_s=share_s, start=start)
        start = solution.choice
        plans.append(solved_plan(table, problem, solution))
    return plans


def _budgets(smallest: int, largest: int, points: int) -> list[int]:
    """Evenly spaced whole numbers from smallest to largest, each once."""
    span, last = largest - smallest, points - 1
    return sorted({smallest + span * point // last for point in range(points)})
