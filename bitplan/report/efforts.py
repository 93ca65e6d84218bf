"""A table for a terminal of what each effort does."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bitplan.effort import Effort


def efforts_table(efforts: Mapping[str, Effort]) -> Table:
    """By name what renders the weights, refines the plan and tunes what is applied."""
    view = Table(title="Efforts, for --effort", box=SIMPLE_HEAD, show_edge=False)
    view.add_column("effort", no_wrap=True)
    view.add_column("quantizer", no_wrap=True)
    view.add_column("passes to refine", justify="right")
    view.add_column("passes to tune", justify="right")
    view.add_column("what it is for", overflow="fold")
    for name, effort in efforts.items():
        view.add_row(
            name,
            effort.quantizer,
            f"{effort.refine_passes}",
            f"{effort.tune_epochs:g}",
            effort.purpose,
        )
    return view
