"""One self-contained page about a plan: no script, no request, the same bytes for the same plan."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from bitplan.allocator import frontier
from bitplan.allocator import uniform as uniform_plans
from bitplan.files import write_text
from bitplan.report import text
from bitplan.report.figures import frontier_svg, series
from bitplan.report.groups import group, group_names, standard_errors, whole
from bitplan.report.tables import evidence_rows, reference_bytes
from bitplan.schema import Choice, CostTable, Plan

FRONTIER_POINTS = 20
STEPS = (2, 3, 4, 5, 6, 8, 16)
"""Bits that have a colour of their own; others take the next lower one's."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The layers of one block and one group: what to write, how dark, and the schemes in words."""

    label: str
    step: int
    schemes: str


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """Bits by group (rows) and block (columns); None where a block has no such layer."""

    blocks: tuple[int, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    apart: tuple[tuple[str, Cell], ...]  # groups outside the blocks


def write_report(path: str | Path, plan: Plan, table: CostTable) -> None:
    """Write the HTML page of a plan and the cost table that it was solved from.

    Raises `OutputError` where the page cannot be written.
    """
    best, uniform = frontier(table, points=FRONTIER_POINTS), uniform_plans(table)
    write_text(path, render(plan, table, best, uniform))


def render(plan: Plan, table: CostTable, best: Sequence[Plan], uniform: Sequence[Plan]) -> str:
    """The page's text: `best` are the plans of the frontier, `uniform` the ones beside it."""
    environment = Environment(
        loader=PackageLoader("bitplan", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = group(plan, table)
    errors = standard_errors(plan, table)
    drawn = series(plan, best, uniform)
    template = environment.get_template("report.html.j2")
    return template.render(
        plan=plan,
        verdict=verdict(plan),
        reference_bytes=reference_bytes(plan),
        figure=frontier_svg(plan, drawn, _alt(plan, best)),
        series=drawn,
        points=[(point, _average_bits(point)) for point in best],
        uniform=[(point, _average_bits(point)) for point in uniform],
        heatmap=heatmap(plan),
        steps=STEPS,
        groups=groups,
        whole=whole(groups),
        evidence_rows=evidence_rows(plan),
        layers=[(choice, errors[choice.layer.name]) for choice in plan.choices],
        size=text.size,
        nats=text.nats,
        perplexity=text.perplexity,
        nothing=text.NOTHING,
    )


def verdict(plan: Plan) -> str:
    """The measured outcome in one sentence, for better or worse."""
    if plan.evidence is None:
        return "Not measured on the real model: the figures below are predictions."
    if plan.evidence.uniform is None:
        return "No uniform plan fits this budget, so there is none to compare with."
    ours, uniform = plan.evidence.plan, plan.evidence.uniform
    if uniform.kl <= 0:
        return f"{uniform.name} measured no loss at all, so there is nothing to gain."
    change = 1 - ours.kl / uniform.kl
    if abs(change) < 0.0005:
        return f"Measured KL equals that of {uniform.name}, the best uniform plan that fits."
    comparison = "lower" if change > 0 else "higher"
    return (
        f"Measured KL is {abs(change):.1%} {comparison} than that of {uniform.name}, the best "
        "uniform plan that fits."
    )


def heatmap(plan: Plan) -> Heatmap:
    """Code bits of every layer, by block and group."""
    names = group_names(choice.layer for choice in plan.choices)
    cells: dict[str, dict[int | None, list[Choice]]] = defaultdict(lambda: defaultdict(list))
    for choice in plan.choices:
        cells[names[choice.layer.name]][choice.layer.block].append(choice)
    blocks = sorted({c.layer.block for c in plan.choices if c.layer.block is not None})
    return Heatmap(
        blocks=tuple(blocks),
        rows=tuple(
            (name, tuple(_cell(row[block]) if block in row else None for block in blocks))
            for name, row in cells.items()
            if any(block in row for block in blocks)
        ),
        apart=tuple((name, _cell(row[None])) for name, row in cells.items() if None in row),
    )


def _cell(choices: Sequence[Choice]) -> Cell:
    """Bits of the layers in one cell: their mean, weighted by parameters."""
    parameters = sum(choice.layer.parameters for choice in choices)
    bits = sum(choice.scheme.bits * choice.layer.parameters for choice in choices) / parameters
    counts = Counter(str(choice.scheme) for choice in choices)
    schemes = [name if len(choices) == 1 else f"{n} × {name}" for name, n in counts.items()]
    return Cell(
        label=f"{bits:.1f}".removesuffix(".0"),
        step=max((step for step in STEPS if step <= bits + 0.5), default=STEPS[0]),
        schemes=", ".join(schemes),
    )


def _average_bits(plan: Plan) -> float:
    stored = sum(choice.bytes for choice in plan.choices)
    return 8 * stored / sum(choice.layer.parameters for choice in plan.choices)


def _alt(plan: Plan, best: Sequence[Plan]) -> str:
    """What the figure shows, in words."""
    alt = "Size of the whole model against KL to the reference. "
    if best:
        first, last = min(best, key=_bytes), max(best, key=_bytes)
        alt += (
            f"The best plans are predicted to go from {text.nats(first.predicted_kl)} nats per "
            f"token at {text.size(first.bytes)} to {text.nats(last.predicted_kl)} at "
            f"{text.size(last.bytes)}. "
        )
    if plan.evidence:
        alt += f"This plan, at {text.size(plan.bytes)}, measured {text.nats(plan.evidence.plan.kl)}"
        if plan.evidence.uniform:
            uniform = plan.evidence.uniform
            alt += f"; {uniform.name}, at {text.size(uniform.bytes)}, {text.nats(uniform.kl)}"
        alt += ". "
    return alt + "The numbers are in the tables below."


def _bytes(plan: Plan) -> int:
    return plan.bytes
