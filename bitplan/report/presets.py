"""The published methods, as a list for a terminal."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bitplan.allocator import Preset


def presets_table(presets: Iterable[Preset]) -> Table:
    """By name what each does, measures and chooses from, and where it is from."""
    view = Table(title="Published methods, for --preset", box=SIMPLE_HEAD, show_edge=False)
    view.add_column("preset", no_wrap=True)
    view.add_column("what it is", overflow="fold")
    for preset in presets:
        view.add_row(
            preset.name,
            Text.assemble(
                f"{preset.objective}\n",
                ("measured by", "dim"),
                f" {', '.join(preset.estimators)} ",
                ("in", "dim"),
                f" {preset.menu}\n",
                (f"{preset.source}\n", "dim"),
            ),
        )
    return view
