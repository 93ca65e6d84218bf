"""Selection in stages: many candidates on few tokens, the survivors on more.

Source: EvoPress (Sieberling et al. 2024, arXiv 2410.14649), its multi-step selection. All
candidates of a stage are measured on the same sequences, so that what is compared are pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitplan.allocator.search.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Stage:
    """So many sequences, and how many candidates go on from there."""

    sequences: Sequence[int]
    survivors: int


def survivor(
    ledger: Ledger, candidates: Sequence[np.ndarray], stages: Sequence[Stage]
) -> np.ndarray:
    """The candidate [rows] of least KL in the last stage, of those that came so far.

    Of equal ones the first: give the incumbent first for it to stay.
    """
    left = list(candidates)
    for stage in stages:
        if len(left) > 1 or stage is stages[-1]:
            kl = ledger.kl(left, stage.sequences).mean(axis=1)
            order = np.argsort(kl, kind="stable")[: stage.survivors]
            left = [left[index] for index in order]
    return left[0]


def unique(candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each choice once, in order."""
    return list({choice.tobytes(): choice for choice in candidates}.values())
