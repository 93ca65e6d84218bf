"""Searches on the model, at equal tokens: ours, and EvoPress's on the same evaluator.

EvoPress starts from the uniform plan, as published, and from our solved plan, which is no peer's
but tells what our moves are worth; ours starts from the solved plan. All accept on the same search
tokens. At its end ours chooses among what it found, the solved plan and the uniform one on tokens
of its own, which count as well. Nobody sees the tokens that are judged on.
"""

from dataclasses import dataclass

import heuristics
from ground import Assignment, Ground
from progress import told

from bitplan.allocator import search, solve
from bitplan.models import Inputs
from bitplan.pipeline.evaluator import ModelEvaluator
from bitplan.schema import Plan


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search found, the tokens that it spent (a pass forward and back is three)."""

    assignment: Assignment
    tokens: int


CHOOSING = 4
"""All tokens of our search over those of its last choice, at least."""


def evopress(ground: Ground, bits: float, tokens: int) -> Searched:
    """EvoPress, its offspring and selection after the paper: see `bitplan.allocator.search`.

    It knows no loss, so it is not given any plan that the table proposes.
    """
    start = ground.plan(heuristics.uniform(ground, bits), bits, "uniform")
    return _found(ground, start, bits, tokens, "evopress")


def evopress_from_ours(ground: Ground, bits: float, tokens: int) -> Searched:
    """The same from our solved plan."""
    return _found(ground, _solved(ground, bits), bits, tokens, "evopress")


def refined(ground: Ground, bits: float, tokens: int) -> Searched:
    """Our search, and the best of it, the solved and the uniform plan."""
    choice = Inputs.of(ground.judge.tokens["choice"])
    solved = _solved(ground, bits)
    uniform = {**ground.pins, **heuristics.uniform(ground, bits)}
    candidates: list[Assignment] = [solved.schemes, uniform]
    count = tokens // CHOOSING // (choice.tokens_each * (len(candidates) + 1))
    some = range(min(len(choice), max(1, count)))
    each = len(some) * choice.tokens_each
    found = _found(ground, solved, bits, tokens - each * (len(candidates) + 1), "auto")
    candidates.append(found.assignment)
    kl = [ground.judge.measure(plan, "choice", some).mean for plan in candidates]
    return Searched(
        assignment=candidates[kl.index(min(kl))],
        tokens=found.tokens + each * len(candidates),
    )


def _solved(ground: Ground, bits: float) -> Plan:
    return solve(ground.table, ground.budget(bits), pins=ground.pins)


def _found(ground: Ground, start: Plan, bits: float, tokens: int, method: str) -> Searched:
    found = search(
        ground.table,
        [start],
        ModelEvaluator(judge=ground.judge, table=ground.table),
        tokens=tokens,
        method=method,
        propose=method != "evopress",
        pins=ground.pins,
        seed=ground.seed,
        progress=told(f"{method} at {bits:g} bits"),
    )
    return Searched(assignment=found.plan.schemes, tokens=found.tokens)
