"""`bitplan allocate`: a model and a budget to a plan and a report."""

from pathlib import Path
from typing import Annotated

import typer

from bitplan.allocator import SEARCHES, check_preset, check_search, check_solver
from bitplan.cli.constraints import ConstraintOptions, OptionalBudgetGb
from bitplan.cli.groups import grouped
from bitplan.cli.measuring import EffortOptions, MenuOptions, PlaceOptions
from bitplan.cli.options import AsJson, Model, PlanOut, Preset, Solver
from bitplan.cli.show import command, show
from bitplan.console import Bars
from bitplan.files import check_readable, check_writable
from bitplan.place import check_source
from bitplan.schema import Budget


@grouped
def allocate(
    *,
    model: Model,
    budget_gb: OptionalBudgetGb = None,
    file: PlanOut = Path("plan.json"),
    report: Annotated[Path, typer.Option(help="Where the HTML report goes.")] = Path("report.html"),
    table: Annotated[
        Path | None,
        typer.Option(
            help="Where the cost table goes, for explain, solve and frontier.",
            show_default="not kept",
        ),
    ] = None,
    menu: MenuOptions,
    given: ConstraintOptions,
    effort: EffortOptions,
    solver: Solver = "auto",
    preset: Preset = None,
    refine_tokens: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Tokens that refinement may run; 0: none.",
            show_default="the effort's",
        ),
    ] = None,
    search: Annotated[
        str, typer.Option(help=f"How refinement searches: {', '.join(SEARCHES)}.")
    ] = "auto",
    start: Annotated[
        list[Path] | None,
        typer.Option(metavar="PLAN", help="A plan that refinement begins with, too; or several."),
    ] = None,
    verify: Annotated[bool, typer.Option(help="Measure on held-out tokens.")] = True,
    place: PlaceOptions,
    as_json: AsJson = False,
) -> None:
    """Fit a model into a budget: measure, solve, refine, and check against the uniform plan."""
    # What is seen to be wrong is refused before torch is imported, which takes seconds.
    constraints = given.read(budget_gb)
    if budget_gb is not None:
        Budget(gb=budget_gb)
    check_source(model)
    for group in (menu, effort, place):
        group.check()
    check_solver(solver)
    check_preset(preset, solver)
    check_search(search)
    check_readable(*(start or ()))
    check_writable(file, report, *([] if table is None else [table]))
    from bitplan.allocator import spending
    from bitplan.pipeline import run
    from bitplan.report import evidence_table, plan_table, write_report

    with Bars(hidden=as_json) as bars:
        outcome = run(
            model,
            budget_gb,
            **menu.settings(),
            **effort.settings(),
            **place.settings(),
            constraints=constraints,
            solver=solver,
            preset=preset,
            refine_tokens=refine_tokens,
            search=search,
            start=start or (),
            verify=verify,
            progress=bars,
        )
    plan = outcome.plan
    plan.save(file)
    write_report(report, plan, outcome.table)
    if table is not None:
        outcome.table.save(table)
    show(
        plan.to_json(),
        as_json,
        lambda: [
            plan_table(plan, outcome.table),
            evidence_table(plan),
            *spending(outcome.table, plan, constraints),
            plan.status,
            f"The plan is in {file}, the report in {report}.",
            command("Next", "bitplan", "apply", model, file, "--out", "DIR"),
        ],
    )
