"""What benchmarks/sensitivity.py found: a table in Markdown, a plot, the raw rows.

    python benchmarks/sensitivity_report.py [docs]

makes them again from the rows in that folder, with those of sensitivity_scaling.py where it wrote
them there.
"""

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

BEST = "gradient_covariance"
COLOURS = {2: "#b40426", 3: "#e8765c", 4: "#c9a227", 5: "#6aa84f", 6: "#3d85c6", 8: "#3b4cc0"}


def write_report(report: Mapping[str, Any], out: Path | None) -> None:
    """Print the tables; with a folder, write them there, with a plot and the raw rows."""
    kept = None if out is None else out / "sensitivity_scaling.json"
    scaling = json.loads(kept.read_text()) if kept and kept.is_file() else {}
    text = markdown(report, scaling)
    print(text)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "sensitivity.md").write_text(text + "\n")
    (out / "sensitivity.json").write_text(json.dumps(report) + "\n")
    plot(report, out / "sensitivity.png")


def markdown(report: Mapping[str, Any], scaling: Mapping[str, Any]) -> str:
    parts = [INTRODUCTION, _correlations(report), PLANS, _plans(report), PLOT, RUN]
    return "\n\n".join(parts + ([SCALING, _scaling(scaling)] if scaling else []))


INTRODUCTION = """# Estimators against measured single swaps

Written by `benchmarks/sensitivity.py` on SmolLM2-135M in float32: 210 linears and the tied
embedding, rendered by GPTQ in groups of 64 at 2, 3, 4, 5, 6 and 8 bits over 32 x 256 tokens of
calibration text. The truth is the measured KL of each of the 1,266 single swaps on 4 x 128 tokens
of other text, at 4 bits on 8 x 128. Each cell is Spearman's / Kendall's rank correlation with it,
over the layers and widths of its column; the first row is what the expected KL itself would reach,
the truth being measured on so few tokens. Seconds are of processor time on one thread, for
statistics and judging of six schemes, rendering not counted; memory is the whole process's, about
0.9 GB of it the model, torch and Python. A row "other text" has its statistics from articles that
no weight was rendered on."""

PLANS = """## Plans

Held-out KL, in nats per token, of the plan that each table leads to at an average of so many bits
(8 x 512 tokens; embedding and norms as they are; in brackets the standard error of the paired
difference from the plan of `gradient_covariance`). The plan of `single_swaps` is that of the truth
itself."""

PLOT = """![Predicted against measured KL of single swaps, and the estimators' rank
correlations](sensitivity.png)

The raw rows are in [sensitivity.json](sensitivity.json)."""


RUN = """This run: two cores of an x86-64 machine that did other work as well, torch 2.13.0+cpu."""

SCALING = """## Scaling

Written by `benchmarks/sensitivity_scaling.py`: medians, least and most in brackets; `gather and
judge` and `output_fisher` in seconds of processor time on one thread, the rest by the clock.
`output_fisher` judges 24 schemes, and is compared with a plain forward and backward pass over the
same tokens. The machine did other work as well."""


def _scaling(scaling: Mapping[str, Any]) -> str:
    lines = ["| what | on | base | ours | ratio |", "|---|---|---|---|---|"]
    for name, part in scaling.items():
        blocks = f"first {part['blocks']} blocks" if part["blocks"] else "all blocks"
        where = f"{blocks}, {part['dtype']}, {part['sequences']} x 256 tokens"
        found = part["found"]
        if name == "schemes":
            for arm in found:
                cells = f"6 schemes: {_told(arm['6'])} | 26 schemes: {_told(arm['26'])}"
                lines.append(f"| {arm['arm']} | {where} | {cells} | {arm['ratio']:.2f} |")
        elif name == "fisher":
            cells = f"plain pass: {_told(found['plain'])} | {_told(found['judged'])}"
            lines.append(f"| output_fisher | {where} | {cells} | {found['ratio']:.2f} |")
        else:
            for row in found:
                cells = f"Spearman {row['spearman']:.4f}"
                lines.append(f"| two seeds, {row['widths']} | {part['dtype']} | | {cells} | |")
    return "\n".join(lines)


def _told(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} - {max(seconds):.1f})"


def _correlations(report: Mapping[str, Any]) -> str:
    lines = [
        "| estimator | all widths | 3 bits and less | 4 bits and more | 4 bits "
        "| tokens forward | seconds | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    bounds = " | ".join(f"{value:.3f}" for value in report["ceiling"].values())
    lines.append(f"| *at most, by the truth's noise* | {bounds} | | | |")
    for one in _ranked(report):
        cells = " | ".join(
            f"{found['spearman']:.3f} / {found['kendall']:.3f}"
            for found in one["correlations"].values()
        )
        lines.append(
            f"| {one['estimator']} | {cells} | {one['tokens']:,} | {one['seconds']:.0f} "
            f"| {one['peak_bytes'] / 1e9:.2f} GB |"
        )
    lines.append(
        f"| single_swaps, the truth | 1 / 1 | 1 / 1 | 1 / 1 | 1 / 1 | {report['truth_tokens']:,} "
        "| | |"
    )
    return "\n".join(lines)


def _plans(report: Mapping[str, Any]) -> str:
    plans: dict[str, dict[float, Any]] = {}
    for row in report["plans"]:
        plans.setdefault(row["estimator"], {})[row["bits"]] = row
    budgets = sorted({row["bits"] for row in report["plans"]})
    lines = ["| plan | " + " | ".join(f"{bits} bits" for bits in budgets) + " |"]
    lines.append("|---|" + "---|" * len(budgets))
    order = sorted(plans, key=lambda name: sum(np.log(r["kl"]) for r in plans[name].values()))
    for name in order:
        cells = [_cell(plans[name][bits], plans[BEST][bits]) for bits in budgets]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    difference = np.subtract(row["by_sequence"], best["by_sequence"])
    if not difference.any():
        return f"{row['kl']:.4f}"
    return f"{row['kl']:.4f} ({difference.std(ddof=1) / len(difference) ** 0.5:.4f})"


def _ranked(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(report["estimators"], key=lambda one: -one["correlations"]["all"]["spearman"])


def plot(report: Mapping[str, Any], path: Path) -> None:
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _scatter(left, report)
        _ranks(right, report)
        figure.savefig(path, dpi=140)


def _scatter(axes: Any, report: Mapping[str, Any]) -> None:
    [best] = [one for one in report["estimators"] if one["estimator"] == BEST]
    by_bits: dict[int, list[tuple[float, float]]] = {}
    for (_, scheme, measured), loss in zip(report["truth"], best["losses"], strict=True):
        by_bits.setdefault(int(scheme[3]), []).append((measured, loss))
    for bits, pairs in sorted(by_bits.items()):
        axes.scatter(*zip(*pairs, strict=True), s=6, color=COLOURS[bits], label=f"{bits} bits")
    axes.axline((1e-4, 1e-4), slope=1, color="black", linewidth=0.6)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="measured KL of the swap (nats per token)",
        ylabel=f"predicted by {BEST}",
    )
    axes.legend(fontsize="small", markerscale=2)


def _ranks(axes: Any, report: Mapping[str, Any]) -> None:
    ranked = _ranked(report)[::-1]
    places = np.arange(len(ranked))
    for name, label, marker in (("all", "all widths", "o"), ("4", "4 bits alone", "x")):
        found = [one["correlations"][name]["spearman"] for one in ranked]
        axes.scatter(found, places, marker=marker, label=label)
    axes.set_yticks(places, [one["estimator"] for one in ranked], fontsize="small")
    axes.set(xlabel="Spearman's correlation with the measured KL", xlim=(None, 1.0))
    axes.grid(axis="x", linewidth=0.4)
    axes.legend(fontsize="small")


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    write_report(json.loads((folder / "sensitivity.json").read_text()), folder)
