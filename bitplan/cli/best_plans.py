"""`bitplan best-plans`: a cost table to several plans of one budget, for a next stage to try."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bitplan.cli.constraints import ConstraintOptions, OptionalBudgetGb
from bitplan.cli.groups import grouped
from bitplan.cli.options import AsJson, TableFile
from bitplan.cli.show import show
from bitplan.files import check_writable
from bitplan.schema import CostTable


@grouped
def best_plans(
    *,
    table: TableFile,
    budget_gb: OptionalBudgetGb = None,
    count: Annotated[int, typer.Option(min=1, help="How many plans.")] = 5,
    differ_by: Annotated[
        float, typer.Option(help="Least share of the parameters in which any two differ.")
    ] = 0.0,
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for plan-1.json, plan-2.json, ...")
    ] = Path(),
    given: ConstraintOptions,
    as_json: AsJson = False,
) -> None:
    """The best plans of a budget, the best first: all there are, or the best that differ."""
    from bitplan.allocator import best_plans
    from bitplan.report import plans_table

    constraints = given.read(budget_gb)
    files = [folder / f"plan-{number}.json" for number in range(1, count + 1)]
    check_writable(*files)
    costs = CostTable.load(table)
    plans = best_plans(costs, budget_gb, count, differ_by=differ_by, constraints=constraints)
    for file, plan in zip(files, plans, strict=False):
        plan.save(file)
    show(
        json.dumps([json.loads(plan.to_json()) for plan in plans], indent=2),
        as_json,
        lambda: [
            plans_table(plans),
            *(f"{file}: {plan.status}" for file, plan in zip(files, plans, strict=False)),
        ],
    )
