"""GPTQ (Frantar et al., 2023) with searched grids; schemes that go together in one pass.

Columns are rounded one after another; the error of each is spread over those still to come, so
that tr(dW H dW') stays small. With H the gradient-weighted input covariance (see
`bitplan.sensitivity.statistics`), that is the expected loss itself.

Where a scheme leaves weights out, they are chosen in the same pass, as in SparseGPT (Frantar and
Alistarh, 2023): group by group, from the weights as they have become, and the columns after them
make up for those that are gone as they do for rounding.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.compress.planes import Prune, in_order, planes
from bitplan.compress.quantizers.rtn import clip
from bitplan.compress.sparsifiers import keep, saliency
from bitplan.formats import Packed
from bitplan.schema import Scheme, Sparsity

BLOCK = 128
"""Columns whose errors are gathered before the columns after them are updated."""


def gptq(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
    prune: Prune | None = None,
) -> list[Packed]:
    """Render one weight in several coded schemes; without H, as `clip`.

    `prune` chooses what a sparse scheme keeps before the pass; None: the pass does, as it goes.
    """
    if curvature is None:
        return clip(weight, schemes, reach=reach)
    importance, factor = curvature.importance, curvature.inverse_factor
    found = []
    for plane in planes(weight, schemes, reach):
        if prune is not None and plane.sparsity is not None:
            prune(plane, plane.sparsity)
        found += plane.packed(*codes_and_grids(plane, importance, factor))
    return in_order(found, schemes)


def codes_and_grids(
    plane: AbstractPlane, importance: Float[Tensor, "in"], factor: Float[Tensor, "in in"]
) -> tuple[UInt8[Tensor, "in rows"], list[Grid]]:
    """The pass over one plane; `plane.work` is then what errors have made of it.

    A mask that the plane has stays; without one a sparse plane gets its own.
    """
    work, group = plane.work, plane.group
    columns = len(work)
    pruning = None
    if plane.sparsity is not None and plane.mask is None:
        pruning = _Pruning(plane, plane.sparsity, factor)
    codes = torch.empty(work.shape, dtype=torch.uint8, device=work.device)
    grids = []
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.empty(stop - start, work.shape[1], device=work.device)
        for column in range(start, stop):
            if pruning is not None:
                pruning.reach(column)
            if column % group == 0:
                ahead = slice(column, min(column + group, columns))
                grids.append(plane.search(ahead, importance[ahead]))
            codes[column], values = plane.codes_and_values(work[column], grids[-1])
            if plane.mask is not None:
                values = values * plane.mask[column]
            error = work[column].sub(values).div_(factor[column, column])
            errors[column - start] = error
            if column + 1 < stop:
                work[column + 1 : stop].addr_(factor[column, column + 1 : stop], error, alpha=-1)
        if stop < columns:
            work[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    return codes, grids


class _Pruning:
    """Chooses what is kept of a plane's columns, some at a time, as the pass comes to them.

    Without blocks the columns still to come are ranked all together each time, so that a row may
    keep many of some columns and few of others. Blocks are chosen on their own, each when the pass
    comes to it; where a group begins all of its blocks are, for now, for its grid is about to be
    found.
    """

    def __init__(self, plane: AbstractPlane, sparsity: Sparsity, factor: Tensor) -> None:
        self.work, self.sparsity, self.diagonal = plane.work, sparsity, factor.diagonal()
        self.columns, self.group = len(plane.work), plane.group
        self.step = sparsity.block or min(plane.group, BLOCK)
        self.mask = torch.ones_like(plane.work, dtype=torch.bool)
        plane.prune(self.mask)

    def reach(self, column: int) -> None:
        """Choose from the columns that begin here, and for now from those that come after them."""
        if column % self.step:
            return
        ahead = self.columns
        if self.sparsity.block is not None:
            ahead = self.step if column % self.group else self.group
        some = slice(column, column + ahead)
        score = saliency(self.work[some], self.diagonal[some])
        kept = self.sparsity.columns(self.columns) - self.mask[:column].sum(0)
        self.mask[some] = keep(score, self.sparsity, kept)
