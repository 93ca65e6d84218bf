"""Some schemes of every row, within all limits, as an integer program in HiGHS.

What is minimised is how far the loss is above a relaxation's bound: of every scheme its reduced
cost, and the price of what stays unused of every limit. That is the loss itself but for a constant,
in numbers that suit the absolute tolerances of HiGHS whatever the losses are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.prices import priced_relaxation
from bitplan.allocator.problem import ROUNDING, Problem
from bitplan.allocator.relaxation import Relaxation

if TYPE_CHECKING:
    from scipy.sparse import csr_array

OBJECTIVE = 1e3
"""What the unit of the objective is scaled to."""
ENTRY = 1e4
"""What the largest number of a limit is scaled to: HiGHS lets it be broken by 1e-6."""
_DONE, _LATE, _INFEASIBLE = 0, 1, 2  # scipy's numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Priced:
    """A problem and a bound: loss = bound + reduced costs + prices * what is left of `most`."""

    problem: Problem
    relaxation: Relaxation
    prices: np.ndarray  # [resources], nats per token and step: of the bytes, then of the limits
    most: np.ndarray  # [resources] int64, steps

    @classmethod
    def of(cls, problem: Problem, hull: Hull, prices: np.ndarray | None = None) -> Priced:
        """At prices [limits] of the limits beside the bytes; None: 0.

        Raises `InfeasibleError` where nothing fits the bytes.
        """
        beside = np.zeros(len(problem.limits)) if prices is None else prices
        relaxed = (
            priced_relaxation(problem, beside) if beside.size else Relaxation.of(problem, hull)
        )
        return cls(
            problem=problem,
            relaxation=relaxed,
            prices=np.append(relaxed.price, beside),
            most=np.array(
                [hull.usable(problem.budget_bytes), *(one.most for one in problem.limits)]
            ),
        )

    @property
    def rounding(self) -> float:
        """Nats per token by which the bound can be wrong: the limits' prices are taken off it."""
        return ROUNDING * float(self.prices[1:] @ self.most[1:])


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What HiGHS came to."""

    choice: np.ndarray | None  # [rows] int, which fits
    above: float  # nats per token that every choice of the core is above the bound, at least
    proven: bool  # nothing in the core is better, but for tolerances; without a choice: none fits
    late: bool = False  # the time was up first


def search(
    priced: Priced,
    keep: np.ndarray,
    choice: np.ndarray,
    *,
    unit: float,
    time_limit_s: float,
    gap: float = 0.0,
) -> Found:
    """The best choice of a core, or the best within a time.

    Args:
        priced: what to solve.
        keep: [rows, schemes] bool, the core.
        choice: [rows] int, which stays in it, whether it fits or not.
        unit: nats per token; a billionth of it is lost to tolerances.
        time_limit_s: seconds.
        gap: by how much the choice found may be worse than the best, relative to how far it is
            above the bound.
    """
    # Imported here because it takes as long as all the rest of this package.
    from scipy.optimize import Bounds, milp

    problem = priced.problem
    core = _Core.of(priced, keep, choice)
    if not core.row.size:
        above = max(problem.loss_of(choice) - priced.relaxation.lower_bound, 0.0)
        return Found(choice=choice if problem.fits(choice) else None, above=above, proven=True)
    scale = OBJECTIVE / unit
    result = milp(
        core.objective(priced) * scale,
        integrality=np.arange(core.columns) < core.row.size,
        bounds=Bounds(0, np.inf),
        constraints=core.constraints(problem.most_schemes),
        options={"time_limit": time_limit_s, "mip_rel_gap": gap},
    )
    found = None if result.x is None else core.filled_in(result.x)
    # A limit that is broken within the tolerance of HiGHS is broken all the same.
    is_kept = found is not None and problem.fits(found)
    bound = 0.0 if result.mip_dual_bound is None else max(result.mip_dual_bound, 0.0)
    return Found(
        choice=found if is_kept else None,
        above=bound / scale + float(priced.prices @ [limit.cut for limit in core.limits]),
        proven=(result.status == _DONE and is_kept) or result.status == _INFEASIBLE,
        late=result.status == _LATE,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scaled:
    """That the amounts of a core's items come to no more than a room, in numbers near one."""

    entries: np.ndarray  # [items], above the row's least
    room: float
    scale: float  # by which both were multiplied, from steps
    cut: int  # steps of the room that no choice of the core can use

    @classmethod
    def of(cls, amounts: np.ndarray, at: np.ndarray, room: int) -> _Scaled:
        """Of the items' amounts [items] int64, the rows they are `at` [items], and the room."""
        least = np.full(at[-1] + 1, np.iinfo(np.int64).max)
        np.minimum.at(least, at, amounts)
        above = amounts - least[at]
        room -= int(least.sum())
        cut = room % max(int(np.gcd.reduce(above)), 1)
        scale = ENTRY / max(int(above.max()), 1)
        return cls(entries=above * scale, room=(room - cut) * scale, scale=scale, cut=cut)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Core:
    """The schemes to choose from, of the rows that have more than one: the items of a program.

    Its columns are the items, what is left of each limit, and a number for each scheme, which is 1
    where an item has it; only a most number of schemes makes use of the last.
    """

    row: np.ndarray  # [items] int, rising
    scheme: np.ndarray  # [items] int
    choice: np.ndarray  # [rows] int, which decides the other rows
    limits: list[_Scaled]
    used: np.ndarray  # [schemes] bool, by the decided rows
    columns: int

    @classmethod
    def of(cls, priced: Priced, keep: np.ndarray, choice: np.ndarray) -> _Core:
        """The core that keeps some schemes [rows, schemes] beside those of a choice [rows]."""
        keep = keep.copy()
        keep[np.arange(len(keep)), choice] = True
        is_open = keep.sum(axis=1) > 1
        row, scheme = np.nonzero(keep & is_open[:, None])
        amounts = np.array([each for each, _ in priced.problem.resources])
        decided = amounts[:, ~is_open, choice[~is_open]].sum(axis=1)
        at = (np.cumsum(is_open) - 1)[row]
        rooms = (priced.most - decided).tolist() if row.size else []
        limits = [
            _Scaled.of(each[row, scheme], at, room)
            for each, room in zip(amounts, rooms, strict=False)
        ]
        return cls(
            row=row,
            scheme=scheme,
            choice=choice,
            limits=limits,
            used=np.bincount(choice[~is_open], minlength=keep.shape[1]) > 0,
            columns=row.size + len(limits) + keep.shape[1],
        )

    def objective(self, priced: Priced) -> np.ndarray:
        """Nats per token above the bound, [columns]."""
        prices = priced.prices / [limit.scale for limit in self.limits]
        reduced = priced.relaxation.reduced[self.row, self.scheme]
        return np.concatenate([reduced, prices, np.zeros(self.used.size)])

    def constraints(self, most_schemes: int | None) -> list[tuple[Any, Any, Any]]:
        """One item of each row, within all limits: matrix, lowest and highest, as scipy has it."""
        items = np.arange(self.row.size)
        rows, at = np.unique(self.row, return_inverse=True)
        ones = np.ones(items.size)
        left = np.eye(len(self.limits), self.columns, k=items.size)
        left[:, items] = [limit.entries for limit in self.limits]
        rooms = np.array([limit.room for limit in self.limits])
        constraints = [(self._sparse(ones, at, items, rows.size), 1, 1), (left, rooms, rooms)]
        if most_schemes is not None:
            first = self.columns - self.used.size
            more = np.flatnonzero(~self.used[self.scheme])
            each = np.arange(more.size)
            taken = self._sparse(ones[more], each, more, more.size)
            has = self._sparse(ones[more], each, first + self.scheme[more], more.size)
            number = np.append(np.zeros(first), ~self.used)
            constraints += [
                (taken - has, -np.inf, 0),
                (number, -np.inf, most_schemes - int(self.used.sum())),
            ]
        return constraints

    def _sparse(
        self, values: np.ndarray, row: np.ndarray, column: np.ndarray, rows: int
    ) -> csr_array:
        from scipy.sparse import csr_array

        return csr_array((values, (row, column)), shape=(rows, self.columns))

    def filled_in(self, values: np.ndarray) -> np.ndarray:
        """The choice [rows] of a program's values [columns]."""
        choice, taken = self.choice.copy(), np.flatnonzero(values[: self.row.size] > 0.5)
        choice[self.row[taken]] = self.scheme[taken]
        return choice
