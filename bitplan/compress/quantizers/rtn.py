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
from bitplan.compress.planes import Prune, in_order, planes
from bitplan.compress.sparsifiers import keep, magnitude, wanda
from bitplan.formats import Packed
from bitplan.schema import Scheme, Sparsity

Fit = Callable[[AbstractPlane, slice], Grid]
"""(a plane, the columns of a group) -> its grid"""


def rtn(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
) -> list[Packed]:
    """Render one weight in several coded schemes; H is not read."""
    return rounded(
        weight, schemes, reach, lambda plane, group: plane.full(group), by_score(magnitude)
    )


def clip(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
    prune: Prune | None = None,
) -> list[Packed]:
    """Render one weight in several coded schemes; without H all columns weigh the same.

    `prune` is Wanda where nothing is said.
    """
    ones = torch.ones(weight.shape[1], device=weight.device)
    importance = ones if curvature is None else curvature.importance
    return rounded(
        weight,
        schemes,
        reach,
        lambda plane, group: plane.search(group, importance[group]),
        prune or by_score(lambda work: wanda(work, importance)),
    )


def by_score(score: Callable[[Tensor], Tensor]) -> Prune:
    """Keep the weights that cost most to leave out: `score` of weights [in, rows]."""

    def prune(plane: AbstractPlane, sparsity: Sparsity) -> None:
        plane.prune(keep(score(plane.work), sparsity, sparsity.columns(len(plane.work))))

    return prune


def rounded(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    reach: Float[Tensor, ""] | None,
    fit: Fit,
    prune: Prune,
) -> list[Packed]:
    """Each group on its grid, after `prune` where a scheme leaves weights out."""
    found = []
    for plane in planes(weight, schemes, reach):
        if plane.sparsity is not None:
            prune(plane, plane.sparsity)
        found += _round_plane(plane, fit)
    return in_order(found, schemes)


def _round_plane(plane: AbstractPlane, fit: Fit) -> list[Packed]:
    columns = len(plane.work)
    codes = torch.empty(plane.work.shape, dtype=torch.uint8, device=plane.work.device)
    grids = []
    for start in range(0, columns, plane.group):
        group = slice(start, min(start + plane.group, columns))
        grids.append(fit(plane, group))
        codes[group] = plane.codes(plane.work[group], grids[-1])
    return plane.packed(codes, grids)
