"""Searches on the model, at equal tokens: ours, and EvoPress's on the same evaluator.

Both start from the same solved plan and accept on the same search tokens. At its end ours chooses
among what it found, the solved plan and the uniform one on tokens of its own, which count as well.
Nobody sees the tokens that are judged on.
"""

from dataclasses import dataclass

import heuristics
from ground import Assignment, Ground
from progress import told

from bitplan.allocator import search, solve
from bitplan.models import Inputs
from bitplan.pipeline.evaluator import ModelEvaluator


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search found, the tokens that it spent (a pass forward and back is three)."""

    assignment: Assignment
    tokens: int


def evopress(ground: Ground, bits: float, tokens: int) -> Searched:
    """EvoPress, its offspring and selection after the paper: see `bitplan.allocator.search`."""
    return _found(ground, bits, tokens, "evopress")


def refined(ground: Ground, bits: float, tokens: int) -> Searched:
    """Our search, and the best of it, the solved and the uniform plan."""
    each = Inputs.of(ground.judge.tokens["choice"]).tokens
    solved = solve(ground.table, ground.budget(bits), pins=ground.pins).schemes
    candidates: list[Assignment] = [solved, {**ground.pins, **heuristics.uniform(ground, bits)}]
    found = _found(ground, bits, tokens - each * (len(candidates) + 1), "auto")
    candidates.append(found.assignment)
    kl = [ground.judge.measure(plan, "choice").mean for plan in candidates]
    return Searched(
        assignment=candidates[kl.index(min(kl))],
        tokens=found.tokens + each * len(candidates),
    )


def _found(ground: Ground, bits: float, tokens: int, method: str) -> Searched:
    found = search(
        ground.table,
        [solve(ground.table, ground.budget(bits), pins=ground.pins)],
        ModelEvaluator(judge=ground.judge, table=ground.table),
        tokens=tokens,
        method=method,
        pins=ground.pins,
        seed=ground.seed,
        progress=told(f"{method} at {bits:g} bits"),
    )
    return Searched(assignment=found.plan.schemes, tokens=found.tokens)
