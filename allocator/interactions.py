"""What two schemes of two rows lose together, beside the sum of their losses.

Held as a sparse symmetric matrix Q over items, an item being row * schemes + scheme: of a choice x
[items] of zeros and ones, the loss is the sum of the chosen losses + x'Qx / 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bitplan.errors import TableError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


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
