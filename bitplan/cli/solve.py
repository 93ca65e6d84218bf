"""`bitplan solve` and `bitplan frontier`: a cost table to plans."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bitplan.cli.constraints import (
    AverageBits,
    Ceilings,
    Floors,
    Fuse,
    LatencyFile,
    Limits,
    MostSchemes,
    OptionalBudgetGb,
    Pins,
    Runtime,
    Ties,
    constraints_of,
)
from bitplan.cli.options import AsJson, PlanOut, Preset, Solver, TableFile
from bitplan.cli.show import show
from bitplan.files import check_writable
from bitplan.schema import CostTable


def solve(
    table: TableFile,
    budget_gb: OptionalBudgetGb = None,
    file: PlanOut = Path("plan.json"),
    pins: Pins = None,
    fuse: Fuse = False,
    floors: Floors = None,
    ceilings: Ceilings = None,
    ties: Ties = None,
    most_schemes: MostSchemes = None,
    runtime: Runtime = None,
    average_bits: AverageBits = None,
    limits: Limits = None,
    latency: LatencyFile = None,
    solver: Solver = "auto",
    preset: Preset = None,
    as_json: AsJson = False,
) -> None:
    """Solve a cost table for a budget; allocate also measures the plan on the model."""
    from bitplan.allocator import solve, spending
    from bitplan.report import plan_table

    constraints = constraints_of(
        pins=pins,
        fuse=fuse,
        floors=floors,
        ceilings=ceilings,
        ties=ties,
        most_schemes=most_schemes,
        runtime=runtime,
        average_bits=average_bits,
        limits=limits,
        latency=latency,
        budget_gb=budget_gb,
    )
    check_writable(file)
    costs = CostTable.load(table)
    plan = solve(costs, budget_gb, constraints=constraints, solver=solver, preset=preset)
    plan.save(file)
    show(
        plan.to_json(),
        as_json,
        lambda: [
            plan_table(plan, costs),
            *spending(costs, plan, constraints),
            plan.status,
            f"The plan is in {file}.",
        ],
    )


def frontier(
    table: TableFile,
    points: Annotated[int, typer.Option(min=2, help="Budgets to solve for.")] = 20,
    nested: Annotated[
        bool, typer.Option(help="Larger budgets only promote; says what that costs.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--every", help="Every breakpoint of the curve's convex hull instead.")
    ] = False,
    pins: Pins = None,
    fuse: Fuse = False,
    floors: Floors = None,
    ceilings: Ceilings = None,
    ties: Ties = None,
    most_schemes: MostSchemes = None,
    runtime: Runtime = None,
    average_bits: AverageBits = None,
    limits: Limits = None,
    latency: LatencyFile = None,
    solver: Solver = "auto",
    as_json: AsJson = False,
) -> None:
    """Solve a cost table for budgets from the smallest to the largest useful one."""
    from bitplan.allocator import frontier
    from bitplan.report import curve_table, frontier_table

    constraints = constraints_of(
        pins=pins,
        fuse=fuse,
        floors=floors,
        ceilings=ceilings,
        ties=ties,
        most_schemes=most_schemes,
        runtime=runtime,
        average_bits=average_bits,
        limits=limits,
        latency=latency,
    )
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
