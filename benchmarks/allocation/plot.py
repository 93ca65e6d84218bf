"""KL over that of the uniform plan by budget, and expected against measured gain."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from arms import BASELINES, LABELS, OURS
from matplotlib import colormaps
from matplotlib.figure import Figure
from table import Table

COLUMNS = 3
"""Panels beside each other."""

WORST = 1.8
"""Times the uniform plan's KL, where a panel ends: some arms go far beyond on some models."""


def plot(tables: Sequence[Table], path: Path) -> None:
    """A panel for each model and quantizer, and one of all gains of the first."""
    drawn = [table for table in tables if table.bits]
    if not drawn:
        return
    with matplotlib.style.context("default"):
        rows = -(-(len(drawn) + 1) // COLUMNS)
        figure = Figure(figsize=(5 * COLUMNS + 2, 4.4 * rows), layout="constrained")
        panels = figure.subplots(rows, COLUMNS).flatten()
        for axes, table in zip(panels, drawn, strict=False):
            _ratios(axes, table)
        gains, *unused = panels[len(drawn) :]
        _gains(gains, drawn[0])
        labelled = gains.get_legend_handles_labels()
        figure.legend(*labelled, fontsize="x-small", loc="outside right center")
        for axes in unused:
            axes.axis("off")
        figure.savefig(path, dpi=140)


def _ratios(axes: Any, table: Table) -> None:
    for arm in table.arms:
        uniform = {bits: table.kl("uniform", bits) for bits in table.bits}
        pairs = [
            (bits, kl / base)
            for bits, base in uniform.items()
            if base and (kl := table.kl(arm, bits)) is not None
        ]
        if pairs:
            axes.plot(*zip(*pairs, strict=True), label=LABELS[arm], **_style(arm))
    axes.set_ylim(bottom=0, top=min(axes.get_ylim()[1], WORST))
    axes.set(
        xlabel="average bits of the codes",
        ylabel="held-out KL over that of the uniform plan",
        title=f"{table.model}, {table.quantizer}",
    )


def _gains(axes: Any, table: Table) -> None:
    for arm in table.arms:
        pairs = [
            pair
            for (name, _), pair in table.gain_pairs.items()
            if name == arm and pair[0] is not None
        ]
        style = _style(arm) | {"linestyle": "none"}
        # Without a point it is in the legend all the same: the other panels have it.
        axes.plot(*(zip(*pairs, strict=True) if pairs else ([], [])), label=LABELS[arm], **style)
    axes.axline((0, 0), slope=1, color="black", linewidth=0.6)
    axes.set(
        xlabel="gain over uniform that the arm expects",
        ylabel="measured gain",
        title=f"{table.model}, {table.quantizer}",
    )


def _style(arm: str) -> dict[str, Any]:
    index = list(LABELS).index(arm)
    colour = "black" if arm in BASELINES else colormaps["tab20"](index % 20)
    return {
        "color": colour,
        "marker": "o" if arm in OURS else "x",
        "linewidth": 1.8 if arm in OURS else 0.9,
        "markersize": 4,
        "linestyle": "--" if arm == "ends_high" else "-",
    }
