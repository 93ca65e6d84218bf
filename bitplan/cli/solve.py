"""`bitplan solve` and `bitplan frontier`: a cost table to plans."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bitplan.cli.options import AsJson, BudgetGb, Fuse, Pins, PlanOut, Solver, TableFile, pins_of
from bitplan.cli.show import show
from bitplan.files import check_writable
from bitplan.schema import CostTable


def solve(
    table: TableFile,
    budget_gb: BudgetGb,
    file: PlanOut = Path("plan.json"),
    pins: Pins = None,
    fuse: Fuse = False,
    solver: Solver = "auto",
    as_json: AsJson = False,
) -> None:
    """Solve a cost table for a budget; allocate also measures the plan on the model."""
    from bitplan.allocator import solve
    from bitplan.report import plan_table

    check_writable(file)
    costs = CostTable.load(table)
    plan = solve(costs, budget_gb, pins=pins_of(pins), fuse=fuse, solver=solver)
    plan.save(file)
    show(
        plan.to_json(),
        as_json,
        lambda: [plan_table(plan, costs), plan.status, f"The plan is in {file}."],
    )


def frontier(
    table: TableFile,
    points: Annotated[int, typer.Option(min=2, help="Budgets to solve for.")] = 20,
    pins: Pins = None,
    fuse: Fuse = False,
    solver: Solver = "auto",
    as_json: AsJson = False,
) -> None:
    """Solve a cost table for budgets from the smallest to the largest useful one."""
    from bitplan.allocator import frontier
    from bitplan.report import frontier_table

    costs = CostTable.load(table)
    plans = frontier(costs, points=points, pins=pins_of(pins), fuse=fuse, solver=solver)
    show(
        json.dumps([json.loads(plan.to_json()) for plan in plans], indent=2),
        as_json,
        lambda: [frontier_table(plans)],
    )
