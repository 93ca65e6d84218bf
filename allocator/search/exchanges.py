"""Exchanges of bytes between two rows: one is promoted, and the cheapest other row pays for it.

Ranked by what they gain where the losses say how the KL changes around a plan, so the gain of a
promotion stands beside the cost of the demotion that it needs.
"""

from dataclasses import dataclass

import numpy as np

from bitplan.allocator.problem import Problem

MOST = 512
"""Promotions, and demotions, that are paired: those of most gain, and of least cost, per byte."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Two rows, the schemes that they take, and what that gains in nats per token."""

    rows: tuple[int, int]
    schemes: tuple[int, int]
    gain: float


def exchanges(problem: Problem, loss: np.ndarray, around: np.ndarray) -> list[Exchange]:
    """All exchanges that gain and fit, the best first, each row in one of them alone."""
    size = problem.bytes - problem.at(around, problem.bytes)[:, None]
    with np.errstate(invalid="ignore"):
        change = np.where(problem.legal, loss - problem.at(around, loss)[:, None], np.inf)
    up, down = _best(change, size > 0, size), _best(change, size < 0, size)
    spare = problem.budget_bytes - problem.bytes_of(around)
    total = change[up][:, None] + change[down]
    extra = size[up][:, None] + size[down]
    total[(extra > spare) | (up[0][:, None] == down[0])] = np.inf
    order = np.argsort(total, axis=None, kind="stable")
    found, taken = [], set()
    for one, two in zip(*np.unravel_index(order, total.shape), strict=True):
        if not total[one, two] < 0:
            break
        rows = int(up[0][one]), int(down[0][two])
        # Every exchange fits by itself, and so do several that free no less than they take.
        if taken.isdisjoint(rows) and (not found or extra[one, two] <= 0):
            taken.update(rows)
            schemes = int(up[1][one]), int(down[1][two])
            found.append(Exchange(rows=rows, schemes=schemes, gain=-float(total[one, two])))
    return found


def exchanged(around: np.ndarray, several: list[Exchange]) -> np.ndarray:
    """The choice [rows] after several exchanges of different rows."""
    choice = around.copy()
    for one in several:
        choice[list(one.rows)] = one.schemes
    return choice


def _best(change: np.ndarray, among: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and schemes of the moves that lose least, or gain most, per byte."""
    row, scheme = np.nonzero(among & np.isfinite(change))
    rate = change[row, scheme] / np.abs(size[row, scheme])
    order = np.argsort(rate, kind="stable")[:MOST]
    return row[order], scheme[order]
