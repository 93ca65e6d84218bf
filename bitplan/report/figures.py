"""The size/KL frontier as inline SVG: bytes that depend on the numbers alone."""

import io
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bitplan.schema import Measured, Plan

# Colours that stand for a CSS variable of the page, so that light and dark mode share one figure.
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_PLAN, _UNIFORM, _OTHER = "#040404", "#050505", "#060606"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    _PLAN: "var(--plan)",
    _UNIFORM: "var(--uniform)",
    _OTHER: "var(--other)",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bitplan",
    "font.size": 10.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# matplotlib reads the style of an SVG from settings of the whole process while it draws.
_DRAWING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that are drawn alike, and how. `errors` are standard errors, where there are any."""

    label: str
    mark: str  # name of the same mark in the page's legend
    color: str
    points: tuple[tuple[int, float], ...]  # bytes, nats per token
    errors: tuple[float, ...] | None = None
    style: Mapping[str, Any]


def series(plan: Plan, frontier: Sequence[Plan], uniform: Sequence[Plan]) -> list[Series]:
    """What there is to draw: predictions, then whatever was measured."""
    line = {"linewidth": 1.8, "marker": "."}
    hollow = {"linestyle": "none", "marker": "s", "markerfacecolor": "none"}
    found = [
        _predicted("best plans, predicted", "line", _PLAN, frontier, line),
        _predicted("uniform plans, predicted", "hollow", _UNIFORM, uniform, hollow),
    ]
    if plan.evidence is not None:
        rivals = [plan.evidence.uniform] if plan.evidence.uniform else []
        rivals += [other for other in plan.evidence.others if other.name.startswith("uniform")]
        others = [other for other in plan.evidence.others if other not in rivals]
        found += [
            _measured("other plans, measured", "dot", _OTHER, others, "o", 6),
            _measured("uniform plans, measured", "square", _UNIFORM, rivals, "s", 7),
            _measured("this plan, measured", "diamond", _PLAN, [plan.evidence.plan], "D", 9),
        ]
    return [one for one in found if one.points]


def _predicted(
    label: str, mark: str, color: str, plans: Sequence[Plan], style: Mapping[str, Any]
) -> Series:
    points = tuple((plan.bytes, plan.predicted_kl) for plan in plans)
    return Series(label=label, mark=mark, color=color, points=points, style=style)


def _measured(
    label: str, mark: str, color: str, measured: Sequence[Measured], marker: str, size: int
) -> Series:
    return Series(
        label=label,
        mark=mark,
        color=color,
        points=tuple((point.bytes, point.kl) for point in measured),
        errors=tuple(point.standard_error for point in measured),
        style={"linestyle": "none", "marker": marker, "markersize": size, "capsize": 3},
    )


def frontier_svg(plan: Plan, drawn: Sequence[Series], alt: str) -> str:
    """Size against KL as an `<svg>` element, described by `alt`. The page writes the legend."""
    unit, factor = ("GB", 1e9) if plan.bytes >= 1e9 else ("MB", 1e6)
    with _DRAWING, matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(8.2, 3.9), layout="constrained")
        axes = figure.add_subplot()
        for one in drawn:
            axes.errorbar(
                [size / factor for size, _ in one.points],
                [loss for _, loss in one.points],
                yerr=one.errors,
                color=one.color,
                clip_on=False,
                zorder=3,
                **one.style,
            )
        axes.axvline(plan.budget_bytes / factor, color=_MUTED, linestyle=":", linewidth=1.2)
        _scale_loss(axes, [loss for one in drawn for _, loss in one.points])
        axes.set_xlabel(f"whole model, {unit} (dotted: the budget)")
        axes.set_ylabel("KL to the reference, nats per token")
        axes.grid(linewidth=0.8)
        return _render(figure, alt)


def _scale_loss(axes: Axes, losses: Sequence[float]) -> None:
    positive = [loss for loss in losses if loss > 0]
    if positive and max(positive) > 20 * min(positive):
        # Linear around zero, so that a layer kept as it is, or noise below zero, has a place.
        threshold = max(min(positive), max(positive) / 1e4)
        axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)
    if min(losses, default=0.0) >= 0:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))


def _render(figure: Figure, alt: str) -> str:
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    body = svg[svg.index("<svg") :]
    # matplotlib's own style element would apply to the whole page.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None, "matplotlib writes a viewBox"
    head = f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(alt)}">'
    body = re.sub(r"<svg[^>]*>", lambda _: head, body, count=1)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, variable)
    return body
