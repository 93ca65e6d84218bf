"""A table for a terminal of what each effort does."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bitplan.effort import Effort


def efforts_table(efforts: Mapping[str, Effort]) -> Table:
    """By name what renders the weights, refines the plan and tunes what is applied."""
    view = Table(title="Efforts, for --effort", box=SIMPLE_HEAD, show_edge=False)
    view.add_column("effort", no_wrap=True)
    view.add_column("what it is", overflow="fold")
    for name, effort in efforts.items():
        view.add_row(
            name,
            Text.assemble(
                f"{effort.purpose}\n",
                ("rendered by", "dim"),
                f" {effort.quantizer}, ",
                ("passes to refine", "dim"),
                f" {effort.refine_passes}, ",
                ("to tune", "dim"),
                f" {effort.tune_epochs:g}\n",
            ),
        )
    return view
