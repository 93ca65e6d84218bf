"""Mixed-integer linear programming in HiGHS, after the relaxation has cut the table to its core."""

import time
from dataclasses import dataclass

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import relax_and_improve
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.solver import solver

NAME = "milp"
OBJECTIVE = 1e3
"""What the distance from bound to first choice is scaled to."""
TOLERANCE = 1e-9
"""HiGHS ends within an absolute 1e-6 of the optimum, which is this share of that distance."""
ENTRY = 1e4
"""What the largest number of a constraint is scaled to: HiGHS lets it be broken by 1e-6."""
RELATIVE_PRECISION = 1e-9
"""What is nearer to the optimum than this, relative to its loss, is called optimal."""


@solver(NAME, exact=True)
def milp(
    problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
) -> Solution:
    """Solve to optimality, but for the tolerances of HiGHS, or until the time limit.

    What is minimised is how far the loss is above the relaxation's bound: of every scheme its
    reduced cost, and the price of the bytes that stay unused. That is the same problem, in numbers
    near one whatever the losses are. Where the tolerances leave a gap, it is stated. Source:
    Hubara et al. 2020 (AdaQuant), "Improving Post Training Neural Quantization: Layer-wise
    Calibration and Integer Programming", for the program; Huangfu and Hall 2018, "Parallelizing
    the dual revised simplex method", for HiGHS.
    """
    end = time.monotonic() + time_limit_s
    relaxation, first = relax_and_improve(problem, hull, start=start)
    if first.gap == 0:
        return first
    distance = first.loss - relaxation.lower_bound
    left_s = end - time.monotonic()
    if left_s <= 0:
        return Solution.of(problem, first.choice, first.lower_bound, Status.TIME_LIMIT, NAME)
    choice, above, proven = _search(problem, hull, relaxation, first, left_s)
    choice = min(choice, first.choice, key=problem.loss_of)
    loss, error = problem.loss_of(choice), TOLERANCE * distance
    bound = max(first.lower_bound, min(loss, relaxation.lower_bound + above) - error)
    if proven and error <= RELATIVE_PRECISION * loss:
        bound = loss
    status = Status.WITHIN_GAP if proven else Status.TIME_LIMIT
    return Solution.of(problem, choice, bound, status, NAME)


def _search(
    problem: Problem, hull: Hull, relaxation: Relaxation, first: Solution, time_limit_s: float
) -> tuple[np.ndarray, float, bool]:
    """The choice [rows] found, how far the optimum is above the bound at least, if it is proven."""
    # Imported here because it takes as long as all the rest of this package.
    from scipy.optimize import Bounds
    from scipy.optimize import milp as highs
    from scipy.sparse import csr_array

    core = _Core.of(relaxation, first)
    resources = [(problem.bytes, hull.usable(problem.budget_bytes))]
    entries, rooms, scales = map(
        np.array, zip(*(core.constraint(*each) for each in resources), strict=True)
    )
    items, classes = core.scheme.size, core.rows.size
    one_each = csr_array((np.ones(items), (core.at, np.arange(items))), (classes, items + 1))
    # The last variable is what is left of the bytes.
    entries = np.hstack([entries, np.eye(len(rooms), 1)])
    objective = np.append(relaxation.reduced[core.item], relaxation.price / scales[0])
    scale = OBJECTIVE / (first.loss - relaxation.lower_bound)
    result = highs(
        objective * scale,
        integrality=np.append(np.ones(items), 0),
        bounds=Bounds(0, np.inf),
        constraints=[
            (one_each, 1, 1),
            (entries[:1], rooms[:1], rooms[:1]),
            (entries[1:], -np.inf, rooms[1:]),
        ],
        options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
    )
    choice = first.choice.copy()
    if result.x is not None:
        taken = result.x[:-1] > 0.5
        choice[core.rows[core.at[taken]]] = core.scheme[taken]
    # A constraint broken within the tolerance of HiGHS is broken all the same.
    choice = choice if problem.fits(choice) else first.choice
    bound = 0.0 if result.mip_dual_bound is None else result.mip_dual_bound
    return choice, max(bound, 0.0) / scale, result.status == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Core:
    """The schemes that a better choice can contain, of the rows that have more than one."""

    rows: np.ndarray  # [open rows]
    at: np.ndarray  # [items] int, which of `rows`, rising
    scheme: np.ndarray  # [items] int
    first: np.ndarray  # [all rows] int, a choice, which decides the other rows

    @classmethod
    def of(cls, relaxation: Relaxation, first: Solution) -> "_Core":
        """The core that is left when a choice is known."""
        keep = relaxation.core(first.loss)
        keep[np.arange(len(keep)), first.choice] = True
        rows = np.flatnonzero(keep.sum(axis=1) > 1)
        at, scheme = np.nonzero(keep[rows])
        return cls(rows=rows, at=at, scheme=scheme, first=first.choice)

    @property
    def item(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and scheme, [items] each."""
        return self.rows[self.at], self.scheme

    def constraint(self, amounts: np.ndarray, most: int) -> tuple[np.ndarray, float, float]:
        """That all amounts [rows, schemes] of a choice add up to `most`, above the rows' least.

        Returns:
            What each item adds [items], the room for it, and what both were multiplied by.
        """
        each = amounts[self.item]
        least = np.full(self.rows.size, np.iinfo(np.int64).max)
        np.minimum.at(least, self.at, each)
        others = np.delete(np.arange(len(self.first)), self.rows)
        room = most - int(amounts[others, self.first[others]].sum() + least.sum())
        above = each - least[self.at]
        scale = ENTRY / max(int(above.max(initial=0)), 1)
        return above * scale, room * scale, scale
