"""The best plan within reach: losses say how good, at most so many rows change.

A change costs `penalty` whatever it is; the penalty is raised until few enough rows change (the
Lagrangian relaxation of the limit on changes, which a limited problem takes as one limit more).
"""

from dataclasses import replace

import numpy as np

from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.allocator.limit import Limit, Unit
from bitplan.allocator.problem import Problem

SOLVE_S = 5.0
"""Seconds for a problem with more limits than that of bytes; any other takes milliseconds."""

HALVINGS = 20
"""Of the interval in which the penalty is looked for."""


def solve_near(
    problem: Problem, loss: np.ndarray, around: np.ndarray, most_moves: int | None = None
) -> np.ndarray:
    """The choice [rows] of least loss that differs from `around` [rows] in at most so many rows.

    `loss` [rows, schemes] may be negative: only differences within a row count. Illegal schemes
    stay illegal. `most_moves` None: any number.
    """
    if problem.is_limited:
        return _with_limits(problem, loss, around, most_moves)
    found = _penalised(problem, loss, around, 0.0)
    if most_moves is None or _moves(found, around) <= most_moves:
        return found
    best, low, high = around, 0.0, float(np.ptp(loss[problem.legal]))
    for _ in range(HALVINGS):
        penalty = (low + high) / 2
        found = _penalised(problem, loss, around, penalty)
        if _moves(found, around) <= most_moves:
            best, high = found, penalty
        else:
            low = penalty
    return best


def _moves(choice: np.ndarray, around: np.ndarray) -> int:
    return int((choice != around).sum())


def _penalised(
    problem: Problem, loss: np.ndarray, around: np.ndarray, penalty: float
) -> np.ndarray:
    shifted = _legal_loss(problem, loss, around, penalty)
    return lagrangian(shifted, Hull.of(shifted), start=around).choice


def _with_limits(
    problem: Problem, loss: np.ndarray, around: np.ndarray, most_moves: int | None
) -> np.ndarray:
    problem = _legal_loss(problem, loss, around, 0.0)
    if most_moves is not None:
        moves = np.where(problem.legal, 1, 0)
        moves[np.arange(len(around)), around] = 0
        limit = Limit(name="changes", amounts=moves, most=most_moves, unit=Unit(noun="changes"))
        problem = replace(problem, limits=(*problem.limits, limit))
    return cp_sat(problem, Hull.of(problem), time_limit_s=SOLVE_S, start=around).choice


def _legal_loss(problem: Problem, loss: np.ndarray, around: np.ndarray, penalty: float) -> Problem:
    """The problem with these losses, from 0 up in each row, and a penalty on every change."""
    loss = loss + penalty
    loss[np.arange(len(around)), around] -= penalty
    loss = np.where(problem.legal, loss, np.inf)
    return replace(problem, loss=loss - loss.min(axis=1, keepdims=True))
