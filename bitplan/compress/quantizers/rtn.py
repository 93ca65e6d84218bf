"""Rounding to the nearest code, column by column on its own.

`rtn` takes the grid that covers each group: no data, the baseline. `clip` searches the grid that
minimises the squared error weighted by H's diagonal. Where a scheme leaves weights out,
`rtn` leaves out the smallest, and `clip` those that Wanda says.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.compress.planes import in_order, planes
from bitplan.compress.sparsifiers import keep, magnitude, wanda
from bitplan.formats import Packed
from bitplan.schema import Scheme

Fit = Callable[[AbstractPlane, slice], Grid]
"""(a plane, the columns of a group) -> its grid"""

Score = Callable[[Tensor], Tensor]
"""weights [in, rows] -> what it costs to leave each out"""


def rtn(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
) -> list[Packed]:
    """Render one weight in several coded schemes; H is not read."""
    return _round(weight, schemes, reach, lambda plane, group: plane.full(group), magnitude)


def clip(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
) -> list[Packed]:
    """Render one weight in several coded schemes; without H all columns weigh the same."""
    ones = torch.ones(weight.shape[1], device=weight.device)
    importance = ones if curvature is None else curvature.importance
    return _round(
        weight,
        schemes,
        reach,
        lambda plane, group: plane.search(group, importance[group]),
        lambda work: wanda(work, importance),
    )


def _round(
    weight: Tensor, schemes: Sequence[Scheme], reach: Tensor | None, fit: Fit, score: Score
) -> list[Packed]:
    found = [
        one for plane in planes(weight, schemes, reach) for one in _round_plane(plane, fit, score)
    ]
    return in_order(found, schemes)


def _round_plane(plane: AbstractPlane, fit: Fit, score: Score) -> list[Packed]:
    columns = len(plane.work)
    if plane.sparsity is not None:
        kept = plane.sparsity.columns(columns)
        plane.prune(keep(score(plane.work), plane.sparsity, kept))
    codes = torch.empty(plane.work.shape, dtype=torch.uint8, device=plane.work.device)
    grids = []
    for start in range(0, columns, plane.group):
        group = slice(start, min(start + plane.group, columns))
        grids.append(fit(plane, group))
        codes[group] = plane.codes(plane.work[group], grids[-1])
    return plane.packed(codes, grids)
