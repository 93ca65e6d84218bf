"""Tables for a terminal."""

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bitplan.report import text
from bitplan.report.groups import Group, group, whole
from bitplan.schema import CostTable, Measured, Plan, Scheme

_MOST_SCHEMES = 7  # as many columns fit into 80 characters
_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}


def plan_table(plan: Plan, table: CostTable | None = None) -> Table:
    """What the plan gives to each group of layers.

    Columns: group, number of layers by scheme, stored bits per weight, bytes, predicted increase
    of KL. A plan of many schemes has a column for each number of bits instead. Without the table
    that it was solved from, no standard error is told.
    """
    groups = group(plan, table)
    total = whole(groups)
    merge = len(total.counts) > _MOST_SCHEMES
    headings = {
        _heading(choice.scheme, merge): (choice.scheme.bits, str(choice.scheme))
        for choice in plan.choices
    }
    error = f", ± {text.nats(total.standard_error)} at most in all" if table else ""
    view = Table(
        title=f"Plan for {plan.provenance.model}",
        caption=f"Layers by scheme. KL in nats per token{error}.",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    view.add_column("layers", no_wrap=True)
    columns = sorted(headings, key=lambda heading: headings[heading])
    for heading in (*columns, "bits/\nweight", "bytes", "predicted\nKL"):
        view.add_column(heading, justify="right", no_wrap=True)
    for part in groups:
        counts = Counter(_heading(choice.scheme, merge) for choice in part.choices)
        cells = [str(counts[heading] or text.NOTHING) for heading in columns]
        view.add_row(part.name, *cells, *_sums(part))
    view.add_section()
    blank = [""] * len(columns)
    view.add_row("not compressed", *blank, "", text.size(plan.rest_bytes), "", style="dim")
    bits, _, loss = _sums(total)
    name = "model and cache" if plan.cache_bytes else "whole model"
    view.add_row(name, *blank, bits, text.size(plan.bytes), loss, style="bold")
    return view


def _heading(scheme: Scheme, merge: bool) -> str:
    """The scheme's name on two lines: `int4` over `g64`; its first line alone to merge."""
    if scheme.is_float:
        return str(scheme)
    tail = str(scheme).removeprefix(scheme.stem)
    return scheme.stem if merge else f"{scheme.stem}\n{tail}".rstrip()


def _sums(part: Group) -> tuple[str, str, str]:
    return f"{part.bits_per_weight:.2f}", text.size(part.bytes), text.nats(part.loss)


def evidence_table(plan: Plan) -> Table:
    """What was measured: reference, uniform and plan by bytes, KL and perplexity.

    Without evidence in the plan, the table has the predictions alone and says so.
    """
    view = Table(
        title="Measured on held-out text" if plan.evidence else "Not measured",
        box=SIMPLE_HEAD,
        show_edge=False,
    )
    view.add_column("model", no_wrap=True)
    for name in ("bytes", "KL, nats per token", "perplexity"):
        view.add_column(name, justify="right", no_wrap=True)
    for cells, style in evidence_rows(plan):
        view.add_row(*cells, style=style)
    if plan.evidence:
        view.caption = f"{plan.evidence.tokens:,} tokens, unseen before; ± standard error"
    return view


def evidence_rows(plan: Plan) -> list[tuple[tuple[str, str, str, str], str]]:
    """Cells of the evidence and a style for each row: "", "bold" or, for what lost, "dim"."""
    size_of_reference = text.size(reference_bytes(plan))
    evidence = plan.evidence
    if evidence is None:
        prediction = f"{text.nats(plan.predicted_kl)} predicted"
        return [
            (("reference", size_of_reference, "0", text.NOTHING), ""),
            (("plan", text.size(plan.bytes), prediction, text.NOTHING), "bold"),
        ]
    uniform = [evidence.uniform] if evidence.uniform else []
    name = evidence.plan.name
    label = "plan" if name == "plan" else f"plan ({name})"
    return [
        (("reference", size_of_reference, "0", text.perplexity(evidence.reference_perplexity)), ""),
        *((_measured_cells(one), "") for one in uniform),
        (_measured_cells(evidence.plan, label), "bold"),
        *((_measured_cells(other), "dim") for other in evidence.others),
    ]


def _measured_cells(measured: Measured, label: str = "") -> tuple[str, str, str, str]:
    return (
        label or measured.name,
        text.size(measured.bytes),
        text.nats(measured.kl, measured.standard_error),
        text.perplexity(measured.perplexity),
    )


def reference_bytes(plan: Plan) -> int | None:
    """Bytes of the model before compression; None for a dtype that bitplan does not know."""
    width = _DTYPE_BYTES.get(plan.provenance.dtype.removeprefix("torch."))
    if width is None:
        return None
    return plan.rest_bytes + width * sum(choice.layer.parameters for choice in plan.choices)
