"""What was asked for beside what was found, a missed figure included."""

from collections.abc import Iterator, Mapping

import numpy as np
from arms import BASELINES, LABELS, OURS, RIVALS
from table import Table

PERPLEXITIES = {3.5: 15.0, 3.0: 18.0, 2.5: 27.0}
"""At most, of the refined plan of SmolLM2 in the best rendering."""
RATIO = 0.9
"""Geometric mean over budgets of our KL over that of the best peer at each, at most."""

Best = Mapping[float, str]
"""By budget the best arm that is not ours."""


def figures(table: Table) -> str:
    """Each of our arms over the best other arm, budget by budget; then the figures."""
    found = {bits: table.best([*BASELINES, *RIVALS], bits) for bits in table.bits}
    best = {bits: arm for bits, arm in found.items() if arm is not None}
    ours = [arm for arm in OURS if _ratios(table, arm, best)]
    if not ours:
        return ""
    lines = ["KL over that of the best other plan at each budget, ± the standard error of the"]
    lines += ["paired difference over sequences; the mean is geometric.", ""]
    lines.append("| plan | " + " | ".join(f"{bits:g} bits" for bits in best) + " | mean |")
    lines.append("|---|" + "---|" * (len(best) + 1))
    names = " | ".join(LABELS[arm] for arm in best.values())
    lines.append(f"| *the best other plan* | {names} | |")
    for arm in ours:
        ratios = _ratios(table, arm, best)
        cells = [f"{r[0]:.3f} ± {r[1]:.3f}" if (r := ratios.get(b)) else "–" for b in best]
        lines.append(f"| {LABELS[arm]} | {' | '.join(cells)} | {_mean(ratios):.3f} |")
    lines += ["", "| figure | asked | found | |", "|---|---|---|---|"]
    # A figure is of an arm that was measured at all budgets, where there is one.
    whole = [arm for arm in ours if len(_ratios(table, arm, best)) == len(best)] or ours
    for name, asked, is_found, is_met in _figures(table, whole[-1], best):
        lines.append(f"| {name} | {asked} | {is_found} | {'met' if is_met else '**missed**'} |")
    return "\n".join(lines)


def _ratios(table: Table, arm: str, best: Best) -> dict[float, tuple[float, float]]:
    found = {bits: table.ratio(arm, other, bits) for bits, other in best.items()}
    return {bits: ratio for bits, ratio in found.items() if ratio is not None}


def _mean(ratios: Mapping[float, tuple[float, float]]) -> float:
    return float(np.exp(np.mean([np.log(ratio) for ratio, _ in ratios.values()])))


def _figures(table: Table, final: str, best: Best) -> Iterator[tuple[str, str, str, bool]]:
    """Of the last of our arms that was measured: name, asked, found, whether it is met."""
    label, ratios = LABELS[final], _ratios(table, final, best)
    lowest = sum(ratio <= 1 for ratio, _ in ratios.values())
    count, mean = len(best), _mean(ratios)
    asked = f"at {count} of {count} budgets"
    yield f"lowest KL of all: {label}", asked, f"at {lowest}", lowest == count
    yield f"KL over the best other's: {label}", f"<= {RATIO}", f"{mean:.3f}", mean <= RATIO
    for bits, most in PERPLEXITIES.items():
        perplexity = table.perplexity(final, bits)
        if (table.model, table.quantizer) == ("SmolLM2-135M", "gptq") and perplexity:
            name = f"perplexity at {bits:g} bits: {label}"
            yield name, f"<= {most:.1f}", f"{perplexity:.2f}", perplexity <= most
    for bits in table.bits:
        for ours, theirs in (("ours_4x", "evopress_16x"), ("ours_1x", "evopress_4x")):
            found = table.ratio(ours, theirs, bits)
            if found is not None:
                name = f"KL at {bits:g} bits, {LABELS[ours]}, over EvoPress's of 4 times the tokens"
                yield name, "<= 1", f"{found[0]:.3f}", found[0] <= 1
