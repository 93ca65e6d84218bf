"""`bitplan measure`: a model to a cost table."""

from pathlib import Path
from typing import Annotated

import typer

from bitplan.cli.groups import grouped
from bitplan.cli.measuring import EffortOptions, MenuOptions, PlaceOptions
from bitplan.cli.options import AsJson, Model
from bitplan.cli.show import show
from bitplan.console import Bars
from bitplan.files import check_writable


@grouped
def measure(
    *,
    model: Model,
    file: Annotated[Path, typer.Option("--out", help="Where the cost table goes.")] = Path(
        "costs.json"
    ),
    menu: MenuOptions,
    effort: EffortOptions,
    place: PlaceOptions,
    as_json: AsJson = False,
) -> None:
    """Measure what every layer would lose in every scheme: a cost table, solved in milliseconds."""
    from bitplan.pipeline import measure
    from bitplan.report import costs_table

    check_writable(file)
    with Bars(hidden=as_json) as bars:
        settings = {**menu.settings(), **effort.settings(), **place.settings()}
        table = measure(model, **settings, progress=bars)
    table.save(file)
    show(table.to_json(), as_json, lambda: [costs_table(table), f"The cost table is in {file}."])
