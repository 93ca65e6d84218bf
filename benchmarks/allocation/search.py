"""Searches on the model, at equal tokens.

A token counts when it is sent through the model, measured anew or remembered; searches accept on
the search tokens, and none sees those that are judged on.
"""

from dataclasses import dataclass

import numpy as np
from ground import Assignment, Ground

from bitplan.allocator import refine, solve
from bitplan.models import Inputs


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search found, with what it sent through the model."""

    assignment: Assignment
    tokens: int
    trace: tuple[tuple[int, float], ...]  # tokens so far, least KL of a plan by then


class Counted:
    """The measured KL by sequence, counting tokens and keeping the least mean."""

    def __init__(self, ground: Ground) -> None:
        self.judge = ground.judge
        self.each = Inputs.of(ground.judge.tokens["search"]).tokens
        self.tokens = 0
        self.trace: list[tuple[int, float]] = []

    def __call__(self, assignment: Assignment) -> np.ndarray:
        """KL by sequence of search tokens."""
        kl = self.judge.measure(assignment, "search").kl
        self.tokens += self.each
        if not self.trace or kl.mean() < self.trace[-1][1]:
            self.trace.append((self.tokens, float(kl.mean())))
        return kl


def refined(ground: Ground, bits: float, tokens: int) -> Searched:
    """Our refinement, from the solved plan."""
    start = solve(ground.table, ground.budget(bits), pins=ground.pins)
    measure = Counted(ground)
    found = refine(
        ground.table, start, measure, evaluations=tokens // measure.each, pins=ground.pins
    )
    return Searched(
        assignment=found.plan.schemes, tokens=measure.tokens, trace=tuple(measure.trace)
    )
