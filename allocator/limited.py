"""Exactly within several limits: a core that grows until it holds every better choice.

Local search knows bytes alone, so there may be no good choice to start from. Instead the schemes of
least reduced cost are searched first. What is found there has a loss, and once the core holds all
schemes whose reduced cost is below the distance from that loss to the bound, its optimum is the
problem's: a better choice can contain no other scheme.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bitplan.allocator.core import Core, Found, search
from bitplan.allocator.prices import best_prices, priced_relaxation
from bitplan.allocator.problem import Problem, Solution
from bitplan.allocator.uniform import uniform_choices
from bitplan.errors import ConflictError, InputError, TimeLimitError

FIRST_ITEMS = 60
"""Schemes of the first core, beside one of each row: few, so that its optimum is found at once."""

GROWTH = 4
"""By how much the core grows where it held no choice that fits."""


def best_within_limits(
    problem: Problem,
    *,
    end: float,
    start: np.ndarray | None = None,
) -> Solution:
    """The choice of least loss that keeps to all limits of a problem, `most_schemes` apart.

    Args:
        problem: what to solve.
        end: when to be done, by `time.monotonic`.
        start: a choice [rows] to be used where it fits.

    Raises:
        InfeasibleError: nothing fits the bytes.
        ConflictError: nothing keeps to all limits.
        TimeLimitError: the time was up before anything was found.
    """
    problem = replace(problem, most_schemes=None)
    prices = best_prices(problem, (end - time.monotonic()) / 4)
    relaxation = priced_relaxation(problem, prices)
    best = best_at_hand(problem, [relaxation.choice, start])
    levels = np.sort(relaxation.reduced[problem.legal])
    rows, more, within = len(problem.loss), FIRST_ITEMS, 0.0
    while True:
        upper = np.inf if best is None else problem.loss_of(best)
        level = levels[min(rows + more, levels.size) - 1]
        # Once a core was searched, the next holds every choice that is better than what was found.
        is_last = within > 0 and best is not None
        within = relaxation.slack(upper) if is_last else level
        keep = problem.legal & (relaxation.reduced <= within)
        # Far from the bound, what is at hand would only bring its schemes into a small core.
        hint = best if is_last and best is not None else relaxation.choice
        core = Core.of(problem, keep, hint, upper)
        found = search(core, max(0.01, end - time.monotonic()))
        best = _better(problem, best, found)
        if best is None:
            if not found.proven or within >= levels[-1]:
                raise unfound(problem, proven=found.proven)
            more *= GROWTH
            continue
        loss = problem.loss_of(best)
        is_complete = within >= min(relaxation.slack(loss), levels[-1])
        # A core that was cut by a known loss has finer units.
        if not found.proven or (is_complete and (core.is_precise(loss) or loss == upper)):
            bound = max(relaxation.lower_bound, found.bound if is_complete else -np.inf)
            return core.solution(problem, best, bound, proven=found.proven)
        within = max(within, np.finfo(float).tiny)


def best_at_hand(problem: Problem, choices: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The best choice that fits, uniform ones among them: none of them may beat the answer."""
    given = [choice for choice in choices if choice is not None]
    fitting = [c for c in (*given, *uniform_choices(problem).values()) if problem.fits(c)]
    return min(fitting, key=problem.loss_of, default=None)


def _better(problem: Problem, best: np.ndarray | None, found: Found) -> np.ndarray | None:
    choices = [choice for choice in (best, found.choice) if choice is not None]
    return min(choices, key=problem.loss_of, default=None)


def unfound(problem: Problem, *, proven: bool) -> InputError:
    """What to raise where no choice was found: for lack of any, if that is proven, or of time."""
    names = ", ".join(["the bytes", *problem.limit_names])
    if proven:
        message = f"No plan keeps to {names} together. Loosen one."
        return ConflictError(message, conflict=problem.limit_names)
    return TimeLimitError(
        f"The time was up before any plan was found that keeps to {names}, or a proof that there "
        "is none. Raise the time limit, or loosen one of them."
    )
