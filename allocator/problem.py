"""The multiple-choice knapsack: one scheme for every row, least loss, within a number of bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from bitplan.allocator.interactions import check_interactions
from bitplan.allocator.pins import Pins, allowed_names
from bitplan.errors import TableError
from bitplan.schema import Cost, CostTable, Row, Scheme

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

    Rows and columns are in alphabetical order of layers and schemes, so the order of the table
    that they came from changes nothing.
    """

    loss: np.ndarray  # [rows, schemes] float64, nats per token; inf where not legal
    bytes: np.ndarray  # [rows, schemes] int64; 0 where not legal
    legal: np.ndarray  # [rows, schemes] bool
    parameters: np.ndarray  # [rows] int64, number of weights
    budget_bytes: int  # for the rows alone: what the rest takes is already subtracted
    rest_bytes: int = 0  # only for messages, which speak of the whole model
    schemes: tuple[Scheme, ...] = ()  # [schemes]
    layers: tuple[tuple[str, ...], ...] = ()  # [rows], names of the layers in each row
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
    ) -> Problem:
        """The problem of a cost table.

        Args:
            table: costs of every layer and scheme.
            budget_bytes: for the whole model, `table.rest_bytes` included.
            pins: layer name or wildcard -> the scheme, or the schemes, that it may take. Where
                several match a layer, the last one counts.
            fuse: give the layers that share `layer.fuse` one scheme.

        Raises:
            InputError: a pin that matches no layer, or leaves one without a legal scheme.
            TableError: fused layers that have no scheme in common.
        """
        allowed = allowed_names(table, pins or {})
        groups = _groups(table, fuse)
        names = sorted({str(cost.scheme) for row in table.rows for cost in row.costs})
        column = {name: index for index, name in enumerate(names)}
        shape = len(groups), len(names)
        loss, size = np.zeros(shape), np.zeros(shape, np.int64)
        votes = np.zeros(shape, np.int64)
        for index, group in enumerate(groups):
            for row in group:
                for name, cost in _legal_costs(row, allowed):
                    loss[index, column[name]] += cost.loss
                    size[index, column[name]] += cost.bytes
                    votes[index, column[name]] += 1
        legal = votes == np.array([[len(group)] for group in groups])
        _check_groups(groups, legal)
        return cls(
            loss=np.where(legal, loss, np.inf),
            bytes=np.where(legal, size, 0),
            legal=legal,
            parameters=np.array([sum(row.layer.parameters for row in group) for group in groups]),
            budget_bytes=budget_bytes - table.rest_bytes,
            rest_bytes=table.rest_bytes,
            schemes=tuple(map(Scheme.parse, names)),
            layers=tuple(tuple(row.layer.name for row in group) for group in groups),
        )

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
        """Whether a choice [rows] is legal and within the budget."""
        legal = bool(self.at(choice, self.legal).all())
        return legal and self.bytes_of(choice) <= self.budget_bytes

    def items_of(self, choice: np.ndarray) -> np.ndarray:
        """The items [rows] of a choice [rows], as `interactions` numbers them."""
        return np.arange(len(choice)) * self.loss.shape[1] + choice

    def alone(self) -> Problem:
        """The same without interactions."""
        return replace(self, interactions=None)

    def assignment(self, choice: np.ndarray) -> dict[str, Scheme]:
        """Scheme by layer name."""
        return {
            name: self.schemes[column]
            for names, column in zip(self.layers, choice.tolist(), strict=True)
            for name in names
        }


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
    """The bound and the gap (loss - bound) / loss, where what is mere rounding counts as none."""
    if loss - lower_bound <= ROUNDING * abs(loss):
        return loss, 0.0
    # Only interactions can take a loss to zero or below, where no ratio says anything.
    return lower_bound, (loss - lower_bound) / loss if loss > 0 else math.inf


def _legal_costs(row: Row, allowed: Mapping[str, frozenset[str]]) -> list[tuple[str, Cost]]:
    costs = [(str(cost.scheme), cost) for cost in row.costs]
    limit = allowed.get(row.layer.name)
    return costs if limit is None else [cost for cost in costs if cost[0] in limit]


def _groups(table: CostTable, fuse: bool) -> list[list[Row]]:
    """Rows that take one scheme together, in alphabetical order."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(table.rows, key=lambda row: row.layer.name):
        key = ("fuse", row.layer.fuse) if fuse and row.layer.fuse else ("layer", row.layer.name)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _check_groups(groups: list[list[Row]], legal: np.ndarray) -> None:
    for index in np.flatnonzero(~legal.any(axis=1)).tolist():
        names = ", ".join(row.layer.name for row in groups[index])
        raise TableError(
            f"The fused layers {names} have no scheme in common. Measure them with the same "
            "schemes, pin them alike, or solve with fuse=False."
        )
