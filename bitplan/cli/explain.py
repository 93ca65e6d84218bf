"""`bitplan explain`: a plan and its cost table to reasons."""

from pathlib import Path
from typing import Annotated

import typer

from bitplan.cli.constraints import Fuse, Pins, pins_of
from bitplan.cli.options import AsJson, Seed
from bitplan.cli.show import show
from bitplan.errors import TableError
from bitplan.schema import CostTable, Plan

EXACT_S, QUICK_S = 60.0, 0.5
"""Seconds for exact searches: where runners-up are to be solved exactly, and where not."""


def explain(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A file that solve or allocate wrote.")
    ],
    table: Annotated[Path, typer.Option(help="The cost table that it was solved from.")] = Path(
        "costs.json"
    ),
    layer: Annotated[
        str, typer.Option(help="Which layers; a name or wildcard, as '*.v_proj': also in words.")
    ] = "*",
    pins: Pins = None,
    fuse: Fuse = False,
    exact: Annotated[
        bool, typer.Option(help="Solve runners-up exactly, for a minute at most.")
    ] = False,
    samples: Annotated[
        int, typer.Option(min=0, help="Samples of the table that tell how often a scheme is kept.")
    ] = 200,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Why a plan is as it is: what bytes are worth, what comes next, each layer's runner-up.

    It heeds the pins and all else that the plan records, unless --pin or --fuse is given here.
    """
    from bitplan.allocator import explain
    from bitplan.report import explanation_tables

    chosen = Plan.load(plan)
    if not table.exists():
        raise TableError(
            f"There is no cost table {table}. Name it with --table. bitplan allocate --table FILE "
            "keeps it; given again with that, it takes what it has measured from its work."
        )
    found = explain(
        CostTable.load(table),
        chosen,
        layers=layer,
        pins=pins_of(pins),
        fuse=fuse,
        exact=exact,
        samples=samples,
        seed=seed,
        time_limit_s=EXACT_S if exact else QUICK_S,
    )
    show(
        found.model_dump_json(indent=2),
        as_json,
        lambda: explanation_tables(found, words=layer != "*"),
    )
