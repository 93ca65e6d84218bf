"""Greedy: again and again the change of one row that saves most loss for each byte it adds."""

import time

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.solver import solver

NAME = "greedy"


@solver(NAME)
def greedy(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """From the smallest schemes up, by marginal loss per byte, until nothing more fits.

    Until the first step that does not fit this is the walk along the hull, whose next vertex is by
    construction the best change of its row; then come the changes that still do. The bound is the
    relaxation's. Source: Kellerer, Pferschy and Pisinger 2004, "Knapsack Problems", the chapter on
    multiple choice, algorithm MCKP-Greedy, which stops at the first step that does not fit.
    """
    began = time.monotonic()
    relaxation = Relaxation.of(problem, hull)
    left_s = time_limit_s - (time.monotonic() - began)
    choice = fill(problem, relaxation.choice, time_limit_s=left_s)
    return Solution.of(problem, choice, relaxation.lower_bound, Status.WITHIN_GAP, NAME)


def fill(problem: Problem, choice: np.ndarray, *, time_limit_s: float) -> np.ndarray:
    """A choice [rows] that spends the bytes that the given one, which must fit, leaves over.

    Args:
        problem: what there is to choose from.
        choice: where to begin [rows].
        time_limit_s: after which the choice stays as it is by then.
    """
    end = time.monotonic() + time_limit_s
    choice = choice.copy()
    spare = problem.budget_bytes - problem.bytes_of(choice)
    row, scheme = np.nonzero(problem.legal)
    while time.monotonic() < end:
        now = choice[row]
        gain = problem.loss[row, now] - problem.loss[row, scheme]
        extra = problem.bytes[row, scheme] - problem.bytes[row, now]
        # What does not fit now never will; what saves nothing may, once others are taken back,
        # but none ever is.
        keep = (gain > 0) & (extra <= spare)
        row, scheme, gain, extra = row[keep], scheme[keep], gain[keep], extra[keep]
        if not row.size:
            break
        best = int(np.argmax(_worth(gain, extra)))
        choice[row[best]] = scheme[best]
        spare -= int(extra[best])
    return choice


def _worth(gain: np.ndarray, extra: np.ndarray) -> np.ndarray:
    """Loss saved for each byte; what adds none is worth more than all else."""
    return np.divide(gain, extra, out=np.full(gain.size, np.inf), where=extra > 0)
