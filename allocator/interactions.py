"""What two schemes of two rows lose together, beside the sum of their losses.

Held as a sparse symmetric matrix Q over items, an item being row * schemes + scheme: of a choice x
[items] of zeros and ones, the loss is the sum of the chosen losses + x'Qx / 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from pydantic import ValidationError

from bitplan.errors import TableError
from bitplan.schema import CostTable, Interaction, Scheme

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from bitplan.allocator.problem import Problem
    from bitplan.allocator.rows import Rows

Pair: TypeAlias = tuple[tuple[str, str], tuple[str, str]]
"""Two layers, each with its scheme: ((layer, scheme), (layer, scheme))."""


def with_interactions(table: CostTable, pairs: Mapping[Pair, float]) -> CostTable:
    """A cost table with these interactions between layers in place of those that it has.

    Args:
        table: whatever was measured.
        pairs: ((layer, scheme), (layer, scheme)) -> nats per token that both lose together beside
            the sum of their losses; each pair once, either way round. None at all: an additive
            table, as every function takes it.

    Raises:
        TableError: a pair that the table does not have, of one layer, or given twice; no number.
        SchemeError: a scheme that is none.
    """
    content = {name: getattr(table, name) for name in CostTable.model_fields}
    try:
        content["interactions"] = [
            Interaction(
                layer=layer,
                scheme=Scheme.parse(scheme),
                other=other,
                other_scheme=Scheme.parse(other_scheme),
                loss=loss,
            )
            for ((layer, scheme), (other, other_scheme)), loss in pairs.items()
        ]
        return CostTable(**content)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise TableError(
            f"These interactions cannot be used: {what}. Leave that one out, or correct it."
        ) from None


def additive_only(table: CostTable, what: str) -> None:
    """Raise `TableError` where a table has interactions, which `what` cannot heed."""
    if table.interactions:
        raise TableError(
            f"{what} takes no interactions between layers, and this cost table has "
            f"{len(table.interactions):,}. Leave them out: with_interactions(table, {{}})."
        )


def among_rows(table: CostTable, rows: Rows) -> tuple[np.ndarray, csr_array | None]:
    """A table's interactions, by rows: within each [rows, schemes], and the matrix between them.

    Layers that share a row share its scheme, so what they lose together is a loss of the row.
    Raises `TableError` where that takes a row's loss below zero.
    """
    within = np.zeros(rows.loss.shape)
    if not table.interactions:
        return within, None
    row = {name: index for index, names in enumerate(rows.layers) for name in names}
    column = {name: index for index, name in enumerate(rows.schemes)}
    one, other, values = [], [], []
    for each in table.interactions:
        ends = (row[each.layer], column[str(each.scheme)])
        beside = (row[each.other], column[str(each.other_scheme)])
        if not (rows.legal[ends] and rows.legal[beside]):
            continue
        if ends[0] != beside[0]:
            one.append(ends[0] * len(column) + ends[1])
            other.append(beside[0] * len(column) + beside[1])
            values.append(each.loss)
        elif ends[1] == beside[1]:
            within[ends] += each.loss
    below = np.argwhere(rows.legal & (rows.loss + within < 0))
    if len(below):
        at, scheme = below[0]
        raise TableError(
            f"The layers {', '.join(rows.layers[at])} share one scheme, and as "
            f"{rows.schemes[scheme]} their interactions take their loss below zero. Correct these."
        )
    return within, _symmetric(one, other, values, rows.loss.size) if values else None


def _symmetric(one: list[int], other: list[int], values: list[float], items: int) -> csr_array:
    """The matrix [items, items] with each value at both its places; what is given twice adds up."""
    from scipy.sparse import coo_array

    return coo_array(([*values, *values], (one + other, other + one)), (items, items)).tocsr()


def check_interactions(matrix: csr_array, rows: int, schemes: int) -> None:
    """Raise `TableError` for interactions that are none of so many rows and schemes."""
    items = rows * schemes
    if matrix.shape != (items, items):
        raise TableError(
            f"The interactions are of shape {matrix.shape}; {rows} rows of {schemes} schemes need "
            f"({items}, {items})."
        )
    if not np.isfinite(matrix.data).all():
        raise TableError("An interaction is not a number. Measure it again, or leave it out.")
    if abs(matrix - matrix.T).sum() > 0:
        raise TableError("The interactions are not symmetric. Give the mean of both halves.")
    one, other = matrix.nonzero()
    if (one // schemes == other // schemes).any():
        raise TableError("A row interacts with itself. Add that to its loss instead.")


def interactions_of(problem: Problem, pairs: Mapping[Pair, float]) -> csr_array:
    """The matrix of a problem's rows from pairs of (layer, scheme), each pair given once.

    Args:
        problem: the rows; a layer stands for the row that it is in.
        pairs: ((layer, scheme), (layer, scheme)) -> nats per token.

    Raises:
        TableError: a layer or scheme that the problem does not have.
    """
    row = {name: index for index, names in enumerate(problem.layers) for name in names}
    column = {str(scheme): index for index, scheme in enumerate(problem.schemes)}

    def item(layer: str, scheme: str) -> int:
        if layer not in row or scheme not in column:
            raise TableError(
                f"An interaction names {layer} as {scheme}, which the table does not have. Leave "
                "it out, or measure that first."
            )
        return row[layer] * len(column) + column[scheme]

    one = [item(*first) for first, _ in pairs]
    other = [item(*second) for _, second in pairs]
    return _symmetric(one, other, list(pairs.values()), problem.loss.size)


def separate(problem: Problem) -> tuple[Problem, float]:
    """A problem without interactions, and what to add to its losses: together a bound on the true.

    Every scheme is charged half of the least that it can lose with each other row, whatever that
    row takes. Source: Gilmore 1962 and Lawler 1963, the bound for quadratic assignment. To keep
    losses from zero up, the least of each row is taken out and given back as the second result.
    """
    assert problem.interactions is not None
    rows, schemes = problem.loss.shape
    matrix = problem.interactions.tocoo()
    legal = problem.legal.ravel()
    one, other = matrix.row, matrix.col
    possible = legal[one] & legal[other]
    block, where = np.unique(
        one[possible].astype(np.int64) * rows + other[possible] // schemes, return_inverse=True
    )
    least = np.full(block.size, np.inf)
    np.minimum.at(least, where, matrix.data[possible])
    # What is not in the matrix is zero.
    partly = np.bincount(where, minlength=block.size) < problem.legal.sum(axis=1)[block % rows]
    least[partly] = np.minimum(least[partly], 0.0)
    charge = np.bincount(block // rows, least / 2, minlength=rows * schemes)
    loss = problem.loss + charge.reshape(rows, schemes)
    lowest = loss.min(axis=1)
    alone = replace(problem.alone(), loss=loss - lowest[:, None])
    return alone, math.fsum(lowest.tolist())


def interacting(problem: Problem, choices: np.ndarray) -> np.ndarray:
    """What interactions add to the loss of each of several choices [choices, rows]."""
    from scipy.sparse import csr_array

    assert problem.interactions is not None
    count, rows = choices.shape
    items = np.arange(rows) * problem.loss.shape[1] + choices
    begins = np.arange(0, count * rows + 1, rows)
    taken = csr_array((np.ones(items.size), items.ravel(), begins), (count, problem.loss.size))
    felt = csr_array(taken @ problem.interactions)
    return np.asarray(felt.multiply(taken).sum(axis=1)).ravel() / 2


def gradient(problem: Problem, choice: np.ndarray) -> np.ndarray:
    """What each scheme [rows, schemes] loses where all other rows are as in a choice [rows]."""
    if problem.interactions is None:
        return problem.loss
    taken = np.zeros(problem.loss.size)
    taken[problem.items_of(choice)] = 1
    return problem.loss + (problem.interactions @ taken).reshape(problem.loss.shape)
