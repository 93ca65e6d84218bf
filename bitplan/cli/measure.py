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
from bitplan.place import check_source


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
    # What is seen to be wrong is refused before torch is imported, which takes seconds.
    check_source(model)
    for group in (menu, effort, place):
        group.check()
    check_writable(file)
    from bitplan.pipeline import measure
    from bitplan.report import costs_table

    with Bars(hidden=as_json) as bars:
        settings = {**menu.settings(), **effort.settings(), **place.settings()}
        table = measure(model, **settings, progress=bars)
    table.save(file)
    show(table.to_json(), as_json, lambda: [costs_table(table), f"The cost table is in {file}."])
