"""The multiple-choice knapsack: one scheme for every row, least loss, within a number of bytes.

It may have more limits than that of bytes, and a most number of different schemes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from bitplan.allocator.constraints import Constraints
from bitplan.allocator.interactions import among_rows, check_interactions
from bitplan.allocator.limit import Limit
from bitplan.allocator.pins import Pins
from bitplan.allocator.rows import Rows
from bitplan.allocator.rules import Rule
from bitplan.allocator.sublayers import Mix, check_open
from bitplan.errors import TableError
from bitplan.schema import CostTable, Scheme

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from scipy.sparse import csr_array

ROUNDING = 1e-12
"""Relative differences below this are the rounding of float64 sums, not differences."""


class Status(Enum):
    """What a solver says of its answer: each value is a sentence of advice."""

    OPTIMAL = "Proven optimal: no plan of this table predicts a lower KL within this budget."
    UNCONSTRAINED = (
        "The budget is larger than anything the table can use, so every layer is kept at its "
        "lowest predicted KL. A budget of this plan's own bytes gives the same plan."
    )
    WITHIN_GAP = (
        "Feasible, and within the stated gap of the best possible. "
        "For a proof of optimality, solve with cp_sat."
    )
    TIME_LIMIT = (
        "The time limit ended the search: feasible, and within the stated gap of the best "
        "possible. Raise the time limit to close the gap."
    )
    UNIFORM = "One scheme for every layer that may take it: a baseline, not a solution."


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Rows and schemes as arrays. A row is a layer, or several that share one scheme.

    Or it is a sublayer that may be left out: then it has one scheme for all of its layers or, in
    the columns after those of the schemes, one of its `mixes`, which name each layer's.

    Rows and columns are in alphabetical order of layers and schemes, so the order of the table
    that they came from changes nothing.
    """

    loss: np.ndarray  # [rows, schemes] float64, nats per token; inf where not legal
    bytes: np.ndarray  # [rows, schemes] int64; 0 where not legal
    legal: np.ndarray  # [rows, schemes] bool
    parameters: np.ndarray  # [rows] int64, number of weights
    budget_bytes: int  # for the rows alone: what the rest takes is already subtracted
    rest_bytes: int = 0  # only for messages, which speak of the whole model
    schemes: tuple[Scheme, ...] = ()  # of the first columns, or of all where there are no mixes
    layers: tuple[tuple[str, ...], ...] = ()  # [rows], names of the layers in each row
    limits: tuple[Limit, ...] = ()  # beside the bytes
    mixes: tuple[tuple[Mix, ...], ...] = ()  # [rows]; empty where no row has any
    most_schemes: int | None = None  # different ones, in all rows together
    interactions: csr_array | None = None
    """[items, items] symmetric, nats per token: what two schemes of two rows lose together beside
    the sum of their losses. An item is row * schemes + scheme. None: rows do not interact."""

    def __post_init__(self) -> None:
        rows, schemes = self.loss.shape
        assert self.bytes.shape == self.legal.shape == (rows, schemes)
        assert self.bytes.dtype == np.int64
        assert self.parameters.shape == (rows,)
        self._refuse(~self.legal.any(axis=1), "has no legal scheme. Give it one, or leave it out.")
        with np.errstate(invalid="ignore"):
            known = np.isfinite(self.loss) & (self.loss >= 0)
        self._refuse(
            (self.legal & ~known).any(axis=1),
            "has a loss that is no number from 0 up. Measure it again, or leave the scheme out.",
        )
        self._refuse(
            (self.bytes < 0).any(axis=1),
            "has a scheme of fewer than 0 bytes. Correct its size, or leave the scheme out.",
        )
        if self.interactions is not None:
            check_interactions(self.interactions, rows, schemes)

    def _refuse(self, wrong: ArrayLike, what: str) -> None:
        """Raise `TableError` for the first of the rows [rows] that are wrong, if any is."""
        if np.any(wrong):
            row = int(np.argmax(wrong))
            raise TableError(f"Row {self.layers[row][0] if self.layers else row} {what}")

    @classmethod
    def of(
        cls,
        table: CostTable,
        budget_bytes: int,
        *,
        pins: Pins | None = None,
        fuse: bool = False,
        constraints: Constraints | None = None,
    ) -> Problem:
        """The problem of a cost table.

        Args:
            table: costs of every layer and scheme.
            budget_bytes: for the whole model, `table.rest_bytes` included.
            pins: layer name or wildcard -> the scheme, or the schemes, that it may take. Where
                several match a layer, the last one counts.
            fuse: give the layers that share `layer.fuse` one scheme.
            constraints: what else a plan must keep to.

        Raises:
            InputError: a pin or another constraint that matches no layer.
            SchemeError: one that leaves a layer without a legal scheme.
            ConflictError: several that do so together.
        """
        given = Constraints.of(constraints, pins=pins, fuse=fuse)
        return cls.under(table, budget_bytes, given.rules(table))

    @classmethod
    def under(cls, table: CostTable, budget_bytes: int, rules: Sequence[Rule]) -> Problem:
        """The problem of a cost table under rules. Raises `ConflictError`, see `of`.

        And `TableError`, where interactions of layers that share a scheme make no sense.
        """
        rows = Rows.of(table, rules)
        if rows.mixes:
            check_open(table, rules)
        within, interactions = among_rows(table, rows)
        numbers = [rule.most_schemes for rule in rules if rule.most_schemes is not None]
        return cls(
            loss=rows.loss + within,
            bytes=rows.bytes,
            legal=rows.legal,
            parameters=rows.parameters,
            interactions=interactions,
            budget_bytes=budget_bytes - table.rest_bytes,
            rest_bytes=table.rest_bytes,
            schemes=tuple(map(Scheme.parse, rows.schemes)),
            layers=rows.layers,
            mixes=rows.mixes,
            limits=rows.limits,
            most_schemes=min(numbers, default=None),
        )

    @property
    def is_limited(self) -> bool:
        """Whether more than the bytes couples the rows, so that not every solver will do."""
        return bool(self.limits) or self.most_schemes is not None

    @property
    def resources(self) -> list[tuple[np.ndarray, int]]:
        """Amounts [rows, schemes] and the most of them: of the bytes, then of the other limits."""
        limits = [(limit.amounts, limit.most) for limit in self.limits]
        return [(self.bytes, self.budget_bytes), *limits]

    def at(self, choice: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The values [rows] at a choice [rows], from `values` [rows, schemes]."""
        return values[np.arange(len(choice)), choice]

    def loss_of(self, choice: np.ndarray) -> float:
        """Loss of a choice [rows], in nats per token: correctly rounded, whatever the order."""
        terms = self.at(choice, self.loss).tolist()
        if self.interactions is not None:
            items = self.items_of(choice)
            # Both halves of the symmetric matrix say the same.
            terms += (self.interactions[items][:, items].data / 2).tolist()
        return math.fsum(terms)

    def bytes_of(self, choice: np.ndarray) -> int:
        """Bytes of a choice [rows], the rest not included."""
        return int(self.at(choice, self.bytes).sum())

    def fits(self, choice: np.ndarray) -> bool:
        """Whether a choice [rows] is legal, and within the budget and all other limits."""
        legal = bool(self.at(choice, self.legal).all())
        return legal and self.bytes_of(choice) <= self.budget_bytes and not self.broken(choice)

    @property
    def limit_names(self) -> list[str]:
        """Of all limits but that of bytes."""
        names = [limit.name for limit in self.limits]
        schemes = [] if self.most_schemes is None else [f"at most {self.most_schemes} schemes"]
        return [*names, *schemes]

    def broken(self, choice: np.ndarray) -> list[str]:
        """Names of the limits, that of bytes apart, that a choice [rows] does not keep to."""
        names = [limit.name for limit in self.limits if limit.of(choice) > limit.most]
        if self.most_schemes is not None and len(np.unique(choice)) > self.most_schemes:
            names.append(f"at most {self.most_schemes} schemes")
        return names

    def choice_of(self, assignment: Mapping[str, Scheme]) -> np.ndarray | None:
        """The choice [rows] of a scheme by layer name; None where it is none of this problem."""
        column = {scheme: index for index, scheme in enumerate(self.schemes)}
        choice = []
        for row, names in enumerate(self.layers):
            columns = tuple(column.get(assignment[name], -1) for name in names)
            at = columns[0]
            if len(set(columns)) > 1:
                known = self.mixes[row] if self.mixes else ()
                at = len(self.schemes) + known.index(columns) if columns in known else -1
            if at < 0 or not self.legal[row, at]:
                return None
            choice.append(at)
        return np.array(choice)

    def items_of(self, choice: np.ndarray) -> np.ndarray:
        """The items [rows] of a choice [rows], as `interactions` numbers them."""
        return np.arange(len(choice)) * self.loss.shape[1] + choice

    def by_bytes_alone(self) -> Problem:
        """The same without any limit but that of bytes."""
        return replace(self, limits=(), most_schemes=None)

    def alone(self) -> Problem:
        """The same without interactions."""
        return replace(self, interactions=None)

    def assignment(self, choice: np.ndarray) -> dict[str, Scheme]:
        """Scheme by layer name."""
        return {
            name: scheme
            for row, (names, column) in enumerate(zip(self.layers, choice.tolist(), strict=True))
            for name, scheme in zip(names, self.schemes_at(row, column), strict=True)
        }

    def schemes_at(self, row: int, column: int) -> tuple[Scheme, ...]:
        """The scheme of each layer of a row in a column."""
        if column < len(self.schemes):
            return (self.schemes[column],) * len(self.layers[row])
        return tuple(self.schemes[each] for each in self.mixes[row][column - len(self.schemes)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """A choice of one scheme for each row, and how good it is at worst."""

    choice: np.ndarray  # [rows] int, index of the scheme
    loss: float
    bytes: int
    lower_bound: float
    gap: float
    status: Status
    solver: str

    @classmethod
    def of(
        cls, problem: Problem, choice: np.ndarray, lower_bound: float, status: Status, solver: str
    ) -> Solution:
        """The solution of a choice [rows]. A gap that is mere rounding is closed: optimal."""
        assert problem.fits(choice), "a solver chose what is not legal or does not fit"
        loss = problem.loss_of(choice)
        lower_bound, gap = close_gap(loss, lower_bound)
        if gap == 0 and status is Status.WITHIN_GAP:
            status = Status.OPTIMAL
        return cls(
            choice=choice,
            loss=loss,
            bytes=problem.bytes_of(choice),
            lower_bound=lower_bound,
            gap=gap,
            status=status,
            solver=solver,
        )


def close_gap(loss: float, lower_bound: float) -> tuple[float, float]:
    """The bound, and the gap as a share of the loss; what is mere rounding counts as none.

    Where the bound is larger in size, being below zero, the gap is a share of that.
    """
    if loss - lower_bound <= ROUNDING * abs(loss):
        return loss, 0.0
    # Only interactions can take either below zero.
    return lower_bound, (loss - lower_bound) / max(abs(loss), abs(lower_bound))
