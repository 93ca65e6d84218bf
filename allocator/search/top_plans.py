"""The table's best plans that differ from one another: others that it holds for nearly as good.

`allocator.best_plans` proves which are the best, with a solver that takes seconds and stops by the
clock. A search needs neither: the relaxation that the proofs begin with finds plans as far apart in
a fraction of a second, the same ones on every machine.
"""

import math
from collections.abc import Sequence

import numpy as np

from bitplan.allocator.apart import Taken, apart
from bitplan.allocator.problem import Problem

DIFFER_BY = 0.1
"""The least share of all parameters in which any two differ."""

MOST_ITEMS = 30_000
"""Legal schemes of all rows: of more, looking for plans takes longer than a second."""


def top_plans(problem: Problem, known: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Up to so many choices [rows] of little loss, each far from all before and from `known`.

    There are none, or fewer, where the relaxation meets none that fits: under limits beside the
    bytes, which it does not see, or where so little is free that no plan can differ as much.
    """
    found: list[np.ndarray] = []
    if np.count_nonzero(problem.legal) > MOST_ITEMS:
        return found
    weight = problem.parameters
    differ = max(1, math.ceil(DIFFER_BY * int(weight.sum())))
    for _ in range(count):
        taken = Taken(choices=(*known, *found), weight=weight, differ=differ)
        choice = apart(problem, taken).choice
        if choice is None:
            break
        found.append(choice)
    return found
