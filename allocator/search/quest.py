"""A search under way: what it works on, and the best plan that it stands by so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bitplan.allocator.problem import Problem
from bitplan.allocator.search.ledger import Ledger
from bitplan.allocator.search.paired import ERRORS, falls
from bitplan.schema import Layer

DEPTHS = 4
"""Groups of equal numbers of consecutive blocks."""


@dataclass(kw_only=True)
class Quest:
    """Choices are [rows]. `starts` are proposals, the first of them the plan to improve."""

    problem: Problem
    ledger: Ledger
    starts: Sequence[np.ndarray]
    groups: tuple[np.ndarray, np.ndarray]  # [rows] each: the number of the kind, and of the depth
    random: np.random.Generator
    incumbent: np.ndarray = field(init=False)
    accepted: int = 0
    lessons: int = 0  # taken so far

    def __post_init__(self) -> None:
        self.incumbent = self.starts[0]

    def next_lessons(self) -> list[int]:
        """As many sequences for a gradient as plans are compared on: those after the last ones."""
        total = self.ledger.evaluator.lessons
        first, self.lessons = self.lessons, self.lessons + min(total, len(self.ledger.everything))
        return [lesson % total for lesson in range(first, self.lessons)]

    def accept(self, choice: np.ndarray, errors: float = ERRORS) -> bool:
        """Make a choice the incumbent if, on all sequences, it is better by more than noise.

        That is by so many standard errors of the paired difference.
        """
        if (choice == self.incumbent).all():
            return False
        kl, before = self.ledger.kl([choice, self.incumbent], self.ledger.everything)
        if not falls(kl, before, errors):
            return False
        self.incumbent = choice
        self.accepted += 1
        return True


def groups_of(problem: Problem, layers: Sequence[Layer]) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the number of its kind, by the last part of its name, and of its depth."""
    by_name = {layer.name: layer for layer in layers}
    first = [by_name[names[0]] for names in problem.layers]
    blocks = sorted({layer.block for layer in first if layer.block is not None})
    depth = {block: index * DEPTHS // len(blocks) for index, block in enumerate(blocks)}
    kinds = sorted({layer.name.rpartition(".")[2] for layer in first})
    return (
        np.array([kinds.index(layer.name.rpartition(".")[2]) for layer in first]),
        np.array([DEPTHS if layer.block is None else depth[layer.block] for layer in first]),
    )
