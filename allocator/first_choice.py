"""A first choice within all limits: local search, which knows bytes alone, may have none."""

import time
from dataclasses import replace

import numpy as np

from bitplan.allocator.highs import Priced, search
from bitplan.allocator.limited import best_at_hand, unfound
from bitplan.errors import InputError

ROUGH = 0.5
"""Relative gap, above the bound, at which a first choice is good enough."""
WORST = 1e7
"""Reduced costs above this many times the median are as good as forbidden in it."""


def first_choice(priced: Priced, *, end: float, start: np.ndarray | None = None) -> np.ndarray:
    """What is at hand, or else the first choice [rows] that HiGHS finds to be good enough.

    Args:
        priced: the problem.
        end: when to be done, by `time.monotonic`.
        start: a choice [rows] to be used where it fits.

    Raises:
        ConflictError: nothing keeps to all limits.
        TimeLimitError: the time was up before anything was found.
        InputError: what HiGHS takes to be within the limits is not, by less than it can tell.
    """
    problem, relaxation = priced.problem, priced.relaxation
    best = best_at_hand(problem, [relaxation.choice, start])
    left_s = end - time.monotonic()
    if best is not None:
        return best
    if left_s <= 0:
        raise unfound(problem, proven=False)
    reduced = relaxation.reduced[problem.legal]
    unit = float(np.median(reduced[reduced > 0])) if reduced.any() else 1.0
    # Losses that are far apart are of no use here: numbers near one are.
    bounded = replace(relaxation, reduced=np.minimum(relaxation.reduced, WORST * unit))
    found = search(
        replace(priced, relaxation=bounded),
        problem.legal,
        relaxation.choice,
        unit=unit,
        time_limit_s=left_s,
        gap=ROUGH,
    )
    if found.choice is not None:
        return found.choice
    if not found.proven and not found.late:
        raise InputError(
            f"Within {', '.join(['the bytes', *problem.limit_names])}, plans are so near to "
            "breaking a limit that HiGHS cannot tell. Solve with cp_sat, or loosen one of them."
        )
    raise unfound(problem, proven=found.proven)
