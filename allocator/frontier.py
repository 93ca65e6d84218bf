"""Plans from the smallest feasible budget to the largest useful one."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import overload

from bitplan.allocator.conflict import largest_bytes, problem_under
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.curve import Curve
from bitplan.allocator.hull import Hull
from bitplan.allocator.interactions import additive_only
from bitplan.allocator.nested import nest, nested_plan
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import solved_plan
from bitplan.allocator.problem import Problem, Solution
from bitplan.allocator.solve import smallest_bytes
from bitplan.allocator.solvers import SOLVERS, check_solver, choose_solver, run_solver
from bitplan.errors import InputError
from bitplan.schema import CostTable, Plan


@overload
def frontier(
    table: CostTable,
    *,
    points: None,
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
) -> Curve: ...


@overload
def frontier(
    table: CostTable,
    *,
    points: int = 20,
    solver: str = "auto",
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
    nested: bool = False,
    time_limit_s: float = 60.0,
) -> list[Plan]: ...


def frontier(
    table: CostTable,
    *,
    points: int | None = 20,
    solver: str = "auto",
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
    nested: bool = False,
    time_limit_s: float = 60.0,
) -> list[Plan] | Curve:
    """The best plan at evenly spaced budgets, smallest first; its loss never rises.

    Args:
        table: what every layer loses in every scheme.
        points: number of budgets, 2 or more; fewer plans come back where there are fewer budgets.
            None: every breakpoint of the curve's convex hull instead, thousands of them, as the
            arrays of a `Curve`.
        solver: a name of `SOLVERS`, or "auto" to ask `choose_solver`.
        pins: as for `solve`.
        fuse: as for `solve`.
        constraints: as for `solve`; they hold in every plan.
        nested: each larger budget only promotes: no layer ever loses bytes. Each plan's status
            says what that costs, and its gap is against the best plan of its budget alone.
        time_limit_s: for all budgets; what one leaves over, the others may use.

    Raises:
        ConflictError: constraints that cannot hold together.
        InputError: fewer than two points, an unknown solver, or a pin that cannot be used.
    """
    check_solver(solver, time_limit_s)
    if points is not None and points < 2:
        raise InputError(f"A frontier of {points} points was asked for; it needs at least 2.")
    given = Constraints.of(constraints, pins=pins, fuse=fuse)
    rules = given.rules(table)
    problem = problem_under(table, largest_bytes(table), rules)
    hull = Hull.of(problem)
    if nested or points is None:
        additive_only(table, "A nested frontier" if nested else "The whole curve")
    if problem.is_limited and (nested or points is None):
        raise InputError(
            "Nested plans and the whole curve keep to the bytes alone, but these must also keep to "
            f"{', '.join(problem.limit_names)}. Leave that out, or ask for a number of points."
        )
    if problem.mixes and nested:
        raise InputError(
            "Nested plans never take a layer's bytes back, and a sublayer that may be left out "
            "takes them all at once. Say what is: Constraints(left_out=frozenset()) for nothing."
        )
    if points is None:
        return Curve.of(table, problem, hull)
    name = choose_solver(problem)[0] if solver == "auto" else solver
    run = partial(run_solver, name, table, rules)
    smallest, largest = hull.first_bytes, hull.largest_bytes
    if problem.is_limited:
        # The hull knows bytes alone.
        largest = run(problem, hull, time_limit_s=time_limit_s / points).bytes
        smallest = min(largest, smallest_bytes(table, constraints=given) - table.rest_bytes)
    budgets = _budgets(smallest, largest, points)
    at_each = [replace(problem, budget_bytes=budget_bytes) for budget_bytes in budgets]
    end = time.monotonic() + time_limit_s
    best = _best(run, at_each, hull, time_limit_s / 2 if nested else time_limit_s)
    if not nested:
        return [solved_plan(table, *each, given) for each in zip(at_each, best, strict=True)]
    left_s = end - time.monotonic()
    chain = nest(problem, budgets, best, SOLVERS[name], time_limit_s=left_s)
    return [nested_plan(table, *each, given) for each in zip(at_each, chain, best, strict=True)]


def _best(
    run: Callable[..., Solution], problems: Sequence[Problem], hull: Hull, time_limit_s: float
) -> list[Solution]:
    """A solution of each problem; they differ in their budgets, which rise."""
    solutions: list[Solution] = []
    end = time.monotonic() + time_limit_s
    for done, problem in enumerate(problems):
        share_s = max(0.0, end - time.monotonic()) / (len(problems) - done)
        # The plan of the budget before fits this one too: it is where the search begins.
        start = solutions[-1].choice if solutions else None
        solutions.append(run(problem, hull, time_limit_s=share_s, start=start))
    return solutions


def _budgets(smallest: int, largest: int, points: int) -> list[int]:
    """Evenly spaced whole numbers from smallest to largest, each once."""
    span, last = largest - smallest, points - 1
    return sorted({smallest + span * point // last for point in range(points)})
