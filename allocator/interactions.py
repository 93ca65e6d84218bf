"""What two schemes of two rows lose together, beside the sum of their losses.

Held as a sparse symmetric matrix Q over items, an item being row * schemes + scheme: of a choice x
[items] of zeros and ones, the loss is the sum of the chosen losses + x'Qx / 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bitplan.errors import TableError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from bitplan.allocator.problem import Problem


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


def interactions_of(
    problem: Problem, pairs: Mapping[tuple[tuple[str, str], tuple[str, str]], float]
) -> csr_array:
    """The matrix of a problem's rows from pairs of (layer, scheme), each pair given once.

    Args:
        problem: the rows; a layer stands for the row that it is in.
        pairs: ((layer, scheme), (layer, scheme)) -> nats per token.

    Raises:
        TableError: a layer or scheme that the problem does not have.
    """
    from scipy.sparse import coo_array

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
    values = [*pairs.values(), *pairs.values()]
    shape = (problem.loss.size, problem.loss.size)
    return coo_array((values, (one + other, other + one)), shape).tocsr()


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
