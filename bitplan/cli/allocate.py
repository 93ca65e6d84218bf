"""`bitplan allocate`: a model and a budget to a plan and a report."""

from pathlib import Path
from typing import Annotated

import typer

from bitplan.allocator import SEARCHES
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
from bitplan.cli.options import (
    AsJson,
    Batch,
    CacheSchemes,
    Calibration,
    Context,
    Dtype,
    Engine,
    Estimator,
    Length,
    Measured,
    Model,
    PlanOut,
    Preset,
    Quantizer,
    Schemes,
    Seed,
    Sequences,
    Solver,
    Temperature,
    Through,
    TimeLimit,
    Verbose,
    Workdir,
    Workers,
    names_of,
    sources_of,
)
from bitplan.cli.show import show
from bitplan.console import Bars
from bitplan.files import check_writable


def allocate(
    model: Model,
    budget_gb: OptionalBudgetGb = None,
    file: PlanOut = Path("plan.json"),
    report: Annotated[Path, typer.Option(help="Where the HTML report goes.")] = Path("report.html"),
    calibration: Calibration = None,
    schemes: Schemes = None,
    measured: Measured = None,
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
    temperature: Temperature = 1.0,
    sequences: Sequences = None,
    length: Length = None,
    time_limit: TimeLimit = None,
    estimator: Estimator = "auto",
    quantizer: Quantizer = "gptq",
    through: Through = "auto",
    solver: Solver = "auto",
    preset: Preset = None,
    refine_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens that refinement may run; 0: none.")
    ] = 50_000,
    search: Annotated[
        str, typer.Option(help=f"How refinement searches: {', '.join(SEARCHES)}.")
    ] = "auto",
    start: Annotated[
        list[Path] | None,
        typer.Option(metavar="PLAN", help="A plan that refinement begins with, too; or several."),
    ] = None,
    verify: Annotated[bool, typer.Option(help="Measure on held-out tokens.")] = True,
    context: Context = 0,
    batch: Batch = 1,
    cache_schemes: CacheSchemes = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    engine: Engine = "auto",
    workers: Workers = None,
    workdir: Workdir = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Fit a model into a budget: measure, solve, refine, and check against the uniform plan."""
    from bitplan.allocator import spending
    from bitplan.calibration import Sizes
    from bitplan.pipeline import run
    from bitplan.report import evidence_table, plan_table, write_report

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
    check_writable(file, report)
    with Bars(hidden=as_json) as bars:
        outcome = run(
            model,
            budget_gb,
            calibration=sources_of(calibration),
            temperature=temperature,
            schemes=names_of(schemes),
            measured=names_of(measured),
            constraints=constraints,
            sizes=Sizes(calibration=sequences, length=length),
            time_limit_s=time_limit,
            estimator=estimator,
            quantizer=quantizer,
            through=through,
            solver=solver,
            preset=preset,
            refine_tokens=refine_tokens,
            search=search,
            start=start or (),
            verify=verify,
            context=context,
            batch=batch,
            cache_schemes=names_of(cache_schemes),
            seed=seed,
            dtype=dtype,
            engine=engine,
            workers=workers,
            workdir=workdir,
            progress=bars,
        )
    plan = outcome.plan
    plan.save(file)
    write_report(report, plan, outcome.table)
    show(
        plan.to_json(),
        as_json,
        lambda: [
            plan_table(plan, outcome.table),
            evidence_table(plan),
            *spending(outcome.table, plan, constraints),
            plan.status,
            f"The plan is in {file}, the report in {report}. "
            f"Next: bitplan apply {model} {file} --out DIR",
        ],
    )
