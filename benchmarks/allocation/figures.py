"""What was asked for beside what was found, a missed figure included."""

from collections.abc import Iterator

import numpy as np
from arms import BASELINES, LABELS, OURS, RIVALS
from table import Table

PERPLEXITIES = {3.5: 15.0, 3.0: 18.0, 2.5: 27.0}
"""At most, of the refined plan of SmolLM2 in the best rendering."""
RATIO = 0.9
"""Geometric mean over budgets of our KL over that of the best peer at each, at most."""


def figures(table: Table) -> str:
    """Each of our arms over the best other arm, budget by budget; then the figures."""
    others = [*BASELINES, *RIVALS]
    ours = [arm for arm in OURS if arm in table.arms]
    best = {bits: table.best(others, bits) for bits in table.bits}
    bits_known = [bits for bits in table.bits if best[bits]]
    if not ours or not bits_known:
        return ""
    lines = ["KL over that of the best other plan:", ""]
    lines.append("| plan | " + " | ".join(f"{b:g} bits" for b in bits_known) + " | mean |")
    lines.append("|---|" + "---|" * (len(bits_known) + 1))
    names = " | ".join(LABELS[str(best[bits])] for bits in bits_known)
    lines.append(f"| *the best other plan* | {names} | |")
    for arm in ours:
        ratios = _ratios(table, arm, best)
        cells = [f"{ratios[b]:.3f}" if b in ratios else "–" for b in bits_known]
        mean = f"{np.exp(np.mean(np.log(list(ratios.values())))):.3f}"
        lines.append(f"| {LABELS[arm]} | {' | '.join(cells)} | {mean} |")
    lines += ["", "The mean is geometric.", "", "| figure | asked | found | |", "|---|---|---|---|"]
    for name, asked, found, is_met in _figures(table, ours, best):
        lines.append(f"| {name} | {asked} | {found} | {'met' if is_met else '**missed**'} |")
    return "\n".join(lines)


def _ratios(table: Table, arm: str, best: dict[float, str | None]) -> dict[float, float]:
    ratios = {}
    for bits, other in best.items():
        ours, theirs = table.kl(arm, bits), table.kl(other, bits) if other else None
        if ours is not None and theirs:
            ratios[bits] = ours / theirs
    return ratios


def _figures(
    table: Table, ours: list[str], best: dict[float, str | None]
) -> Iterator[tuple[str, str, str, bool]]:
    final = ours[-1]
    label = LABELS[final]
    ratios = _ratios(table, final, best)
    lowest = [bits for bits, ratio in ratios.items() if ratio <= 1]
    yield (
        f"lowest KL of all, {label}",
        f"at {len(best)} of {len(best)} budgets",
        f"at {len(lowest)} of {len(ratios)}",
        len(lowest) == len(best),
    )
    mean = float(np.exp(np.mean(np.log(list(ratios.values())))))
    yield f"KL over the best other's, {label}", f"<= {RATIO}", f"{mean:.3f}", mean <= RATIO
    for bits, most in PERPLEXITIES.items():
        perplexity = table.perplexity(final, bits)
        if (table.model, table.quantizer) == ("SmolLM2-135M", "gptq") and perplexity:
            name = f"perplexity at {bits:g} bits, {label}"
            yield name, f"<= {most:.1f}", f"{perplexity:.2f}", perplexity <= most
    for bits in table.bits:
        quarter, whole = table.kl("ours_4x", bits), table.kl("evopress_16x", bits)
        if quarter and whole:
            name = f"KL at {bits:g} bits with a quarter of EvoPress's tokens"
            yield name, f"<= {whole:.4f}", f"{quarter:.4f}", quarter <= whole
