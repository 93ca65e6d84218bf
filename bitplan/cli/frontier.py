"""`bitplan frontier`: a cost table to plans of many budgets."""

import json
from typing import Annotated

import typer

from bitplan.cli.constraints import ConstraintOptions
from bitplan.cli.groups import grouped
from bitplan.cli.options import AsJson, Solver, TableFile
from bitplan.cli.show import show
from bitplan.schema import CostTable


@grouped
def frontier(
    *,
    table: TableFile,
    points: Annotated[int, typer.Option(min=2, help="Budgets to solve for.")] = 20,
    nested: Annotated[
        bool, typer.Option(help="Larger budgets only promote; says what that costs.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--every", help="Every breakpoint of the curve's convex hull instead.")
    ] = False,
    given: ConstraintOptions,
    solver: Solver = "auto",
    as_json: AsJson = False,
) -> None:
    """Solve a cost table for budgets from the smallest to the largest useful one."""
    from bitplan.allocator import frontier
    from bitplan.report import curve_table, frontier_table

    constraints = given.read()
    costs = CostTable.load(table)
    if every:
        curve = frontier(costs, points=None, constraints=constraints)
        show(json.dumps(curve.to_dict()), as_json, lambda: [curve_table(curve)])
        return
    plans = frontier(costs, points=points, solver=solver, constraints=constraints, nested=nested)
    notes = [max(plans, key=lambda plan: plan.gap).status] if nested else []
    show(
        json.dumps([json.loads(plan.to_json()) for plan in plans], indent=2),
        as_json,
        lambda: [frontier_table(plans), *notes],
    )
