"""Tables for a terminal of what the stages around the plan found."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bitplan.allocator import Curve
from bitplan.report import text
from bitplan.schema import CostTable, Plan

if TYPE_CHECKING:
    from bitplan.evaluate import Report


def costs_table(table: CostTable) -> Table:
    """Loss of every scheme, were it given to all layers, with bytes."""
    view = _table(f"Cost of {table.provenance.model}, were all layers alike")
    view.add_column("scheme", no_wrap=True)
    for name in ("layers", "bytes", "predicted KL"):
        view.add_column(name, justify="right", no_wrap=True)
    sums: dict[str, list[tuple[int, float, float]]] = {}
    for row in table.rows:
        for cost in row.costs:
            entry = (cost.bytes, cost.loss, cost.standard_error)
            sums.setdefault(str(cost.scheme), []).append(entry)
    for name, entries in sorted(sums.items(), key=lambda item: sum(e[0] for e in item[1])):
        size, loss, error = (sum(column) for column in zip(*entries, strict=True))
        view.add_row(name, str(len(entries)), text.size(size), text.nats(loss, error))
    made = table.provenance
    tokens = f"{made.calibration_tokens:,} tokens"
    view.caption = f"{made.calibration}, {tokens}; {made.estimator}"
    return view


def frontier_table(plans: Sequence[Plan]) -> Table:
    """Size, predicted KL and gap of each plan."""
    view = _table("Frontier")
    for name in ("size in GB", "bytes", "predicted KL", "gap"):
        view.add_column(name, justify="right", no_wrap=True)
    for plan in plans:
        size = f"{plan.bytes / 1e9:.4f}"
        view.add_row(size, f"{plan.bytes:,}", text.nats(plan.predicted_kl), f"{plan.gap:.1e}")
    return view


def plans_table(plans: Sequence[Plan]) -> Table:
    """Several plans of one budget: size, predicted KL, and in how much each differs from the first.

    That is a share of the parameters.
    """
    view = _table("Best plans")
    for name in ("plan", "bytes", "predicted KL", "more than\nthe best", "layers\nthat differ"):
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("parameters\nthat differ", justify="right", no_wrap=True)
    for number, plan in enumerate(plans, start=1):
        pairs = zip(plans[0].choices, plan.choices, strict=True)
        differ = [mine.layer.parameters for one, mine in pairs if one.scheme != mine.scheme]
        share = sum(differ) / sum(choice.layer.parameters for choice in plan.choices)
        view.add_row(
            str(number),
            f"{plan.bytes:,}",
            text.nats(plan.predicted_kl),
            text.change(plan.predicted_kl - plans[0].predicted_kl),
            str(len(differ)),
            f"{share:.1%}",
        )
    return view


def curve_table(curve: Curve) -> Table:
    """Size, predicted KL and what a GB more is worth, at every breakpoint of the convex hull."""
    view = _table("Curve")
    for name in ("size in GB", "bytes", "predicted KL", "nats per GB"):
        view.add_column(name, justify="right", no_wrap=True)
    for size, loss, price in zip(curve.bytes, curve.loss, curve.price, strict=True):
        view.add_row(f"{size / 1e9:.4f}", f"{size:,}", text.nats(loss), f"{price * 1e9:.3g}")
    return view


def evaluation_table(report: "Report") -> Table:
    """A model beside its reference."""
    view = _table("Measured on held-out text")
    view.add_column("", no_wrap=True)
    sides = [("reference", report.reference), ("model", report.model)]
    present = [(label, side) for label, side in sides if side]
    for label, side in present:
        view.add_column(f"{label}\n{side.name}", justify="right")
    rows = {
        "bytes": lambda side: text.size(side.bytes),
        "KL, nats per token": lambda side: text.nats(side.kl, side.kl_standard_error),
        "perplexity": lambda side: text.perplexity(side.perplexity),
        "tokens per second": lambda side: _speed(side.tokens_per_second),
        "peak memory": lambda side: text.size(side.peak_bytes),
    }
    for name, cell in rows.items():
        view.add_row(name, *(cell(side) for _, side in present))
    view.caption = f"{report.tokens:,} tokens; greedy decoding at batch 1"
    return view


def _speed(value: float | None) -> str:
    return text.NOTHING if value is None else f"{value:.1f}"


def _table(title: str) -> Table:
    return Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
