"""The rows as a table in Markdown, a plot, and the rows themselves."""

import json
from collections.abc import Sequence
from pathlib import Path

from arms import ARMS, LABELS
from figures import figures
from plot import plot
from rows import Row
from table import Cells, Table

NAME = "allocation"


def write_report(rows: Sequence[Row], out: Path | None) -> None:
    """Print the tables; with a folder, write them there, with a plot and the rows."""
    text = markdown(rows)
    print(text)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{NAME}.md").write_text(text + "\n")
    lines = ",\n".join(json.dumps(row) for row in rows)
    (out / f"{NAME}.json").write_text(f"[\n{lines}\n]\n")
    plot(tables_of(rows), out / f"{NAME}.png")


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """One for each model and quantizer, in the order in which they were measured."""
    places = dict.fromkeys((row["model"], row["quantizer"]) for row in rows)
    return [Table.of(rows, *place) for place in places]


def markdown(rows: Sequence[Row]) -> str:
    parts = [INTRODUCTION]
    for table in tables_of(rows):
        if table.bits:
            parts += _sections(table)
    return "\n\n".join([*parts, END])


INTRODUCTION = """# Allocations side by side

Written by `benchmarks/allocation`. Only who gets which bits differs: every plan is costed by one
byte model, scales and offsets counted, fits the same budget, and is rendered by one quantizer in
groups of 64; embeddings and norms stay as they are. A budget is named by the average bits of the
codes of all linears. Calibration is 32 x 256 tokens of Wikipedia summaries, other ones for every
seed; judged are 16 x 512 tokens of other summaries, and 4 x 512 of the docstrings of Python's
standard library (of MiniLM, which reads 256 at once, as many in sequences half as long). Cells are
means over seeds.

Peers score in their own environments, with the same calibration text (ModelOpt's kl_div with its
first two sequences, since it runs the model once for each group, width and sequence), at 2, 3, 4,
5, 6 and 8 bits in groups of 64. Their scores go to our exact solver at our bytes, with the groups
that they tie tied: their scores, an exact solver. The integer program of ModelOpt and the dynamic
program of AutoRound are exact too, over counts of bytes of their own. ModelOpt does not sum its
kl_div but holds every group under a threshold, a row of its own. Both read the loss of a language
model, so they have no rows of an encoder. The rows in ExLlama's and NNCF's style are written after
them, and score what our quantizer rendered, as ours do.

Searches accept on 32 x 256 tokens of summaries that nothing else sees. EvoPress's starts from the
uniform plan, as published; "from ours" from our solved plan, and so is none of a peer's. Ours
starts from the solved plan and chooses at its end between what it found, the solved and the
uniform one on up to 16 x 256 tokens more, which count. Nx is N times 12,500 tokens, a pass forward
and back counting three; a generation of EvoPress takes 49,152.

Seconds are of scoring or measuring and of searching on a busy machine, rendering in six widths
counted for ours alone, which reads it; the tokens of those that do not search are those sent
forward through the model."""

END = f"""![Held-out KL of each plan over that of the uniform one, and expected against measured
gain]({NAME}.png)

The rows are in [{NAME}.json]({NAME}.json); `widths` has a digit for each linear in the model's
order."""


def _sections(table: Table) -> list[str]:
    seeds = f"{table.seeds} seed{'s' if table.seeds > 1 else ''}"
    parts = [
        f"## {table.model}, {table.quantizer}, {seeds}",
        "Held-out KL in nats per token"
        + (f", and perplexity (the model itself: {table.reference:.2f})" if table.reference else "")
        + ". The lowest of each column is bold.",
        _by_bits(table, table.held_out(), bold=True),
        "On other text (docstrings):",
        _by_bits(table, table.other(), bold=True),
        "Gain over the uniform plan, the share of its KL that is saved: expected by the arm's own "
        "losses / measured.",
        _by_bits(table, table.gains(), bold=False),
        "What it took, a mean over budgets and seeds, and how full the budget was at least:",
        _costs(table),
        figures(table),
    ]
    lacking = [LABELS[arm] for arm in ARMS if arm not in (*table.arms, *table.failures)]
    if lacking:
        parts.append(f"Not measured: {'; '.join(lacking)}.")
    failed = [f"- {LABELS[arm]} did not run: {reason}" for arm, reason in table.failures.items()]
    return [part for part in [*parts, "\n".join(failed)] if part]


def _by_bits(table: Table, cells: Cells, *, bold: bool) -> str:
    lines = ["| plan | " + " | ".join(f"{bits:g} bits" for bits in table.bits) + " |"]
    lines.append("|---|" + "---|" * len(table.bits))
    least = {bits: min(v for (_, b), (v, _) in cells.items() if b == bits) for bits in table.bits}
    for arm in table.arms:
        texts = []
        for bits in table.bits:
            value, text = cells.get((arm, bits), (None, "–"))
            texts.append(f"**{text}**" if bold and value == least[bits] else text)
        lines.append(f"| {LABELS[arm]} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _costs(table: Table) -> str:
    lines = ["| plan | seconds | tokens | budget used |", "|---|---|---|---|"]
    for arm in table.arms:
        seconds, tokens, used = table.cost(arm)
        known = "–" if seconds is None else f"{seconds:,.0f}"
        lines.append(f"| {LABELS[arm]} | {known} | {tokens:,.0f} | {used:.2%} |")
    return "\n".join(lines)
