"""Options and arguments that several commands share, one by one."""

import logging
from pathlib import Path
from typing import Annotated

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
    typer.Option(help="Where work is kept, to go on from.", show_default="the user's cache"),
]
Seed = Annotated[int, typer.Option(help="Of all that is drawn at random.")]
Solver = Annotated[str, typer.Option(help=f"One of auto, {', '.join(SOLVERS)}.")]
Preset = Annotated[
    str | None,
    typer.Option(help="A published method in place of a solver: bitplan presets lists them."),
]
Effort = Annotated[
    str,
    typer.Option(
        help="How much work the weights are worth: low, standard or high. bitplan efforts says "
        "what each does."
    ),
]
Experts = Annotated[
    str,
    typer.Option(
        help="Of a mixture that keeps its experts in one tensor: together (one scheme for all of "
        "it), or each (a scheme for every expert)."
    ),
]
Context = Annotated[
    int, typer.Option(min=0, help="Tokens whose KV cache counts too; 0: weights alone.")
]
Batch = Annotated[int, typer.Option(min=1, help="Sequences of that context.")]
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
