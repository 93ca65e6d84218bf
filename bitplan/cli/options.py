"""Options and arguments that several commands share, and what their texts mean."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from bitplan.allocator import SOLVERS

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
Solver = Annotated[str, typer.Option(help=f"One of auto, {', '.join(SOLVERS)}.")]
Preset = Annotated[
    str | None,
    typer.Option(help="A published method in place of a solver: bitplan presets lists them."),
]
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


def names_of(menu: str | None) -> list[str] | None:
    """The schemes of a menu that commas separate."""
    return None if menu is None else [name.strip() for name in menu.split(",") if name.strip()]


def sources_of(calibration: list[str] | None) -> Any:
    """Calibration sources of `PATH[:WEIGHT]`s."""
    from bitplan.calibration import parse_source

    return [parse_source(text) for text in calibration] if calibration else None
