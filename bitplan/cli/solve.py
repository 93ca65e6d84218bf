"""`bitplan solve`: a cost table to a plan."""

from pathlib import Path

from bitplan.cli.constraints import ConstraintOptions, OptionalBudgetGb
from bitplan.cli.groups import grouped
from bitplan.cli.options import AsJson, PlanOut, Preset, Solver, TableFile
from bitplan.cli.show import show
from bitplan.files import check_writable
from bitplan.schema import CostTable


@grouped
def solve(
    *,
    table: TableFile,
    budget_gb: OptionalBudgetGb = None,
    file: PlanOut = Path("plan.json"),
    given: ConstraintOptions,
    solver: Solver = "auto",
    preset: Preset = None,
    as_json: AsJson = False,
) -> None:
    """Solve a cost table for a budget; allocate also measures the plan on the model."""
    from bitplan.allocator import solve, spending
    from bitplan.report import plan_table

    constraints = given.read(budget_gb)
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
