"""GPTQ (Frantar et al., 2023) with searched grids; schemes that go together in one pass.

Columns are rounded one after another; the error of each is spread over those still to come, so
that tr(dW H dW') stays small. With H the gradient-weighted input covariance (see
`bitplan.sensitivity.statistics`), that is the expected loss itself.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.plane import AbstractPlane
from bitplan.compress.planes import in_order, planes
from bitplan.compress.quantizers.rtn import clip
from bitplan.formats import Packed
from bitplan.schema import Scheme

BLOCK = 128
"""Columns whose errors are gathered before the columns after them are updated."""


def gptq(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
) -> list[Packed]:
    """Render one weight in several coded schemes; without H, as `clip`."""
    if curvature is None:
        return clip(weight, schemes, reach=reach)
    importance, factor = curvature.importance, curvature.inverse_factor
    found = [
        one for plane in planes(weight, schemes, reach) for one in _gptq(plane, importance, factor)
    ]
    return in_order(found, schemes)


def _gptq(plane: AbstractPlane, importance: Tensor, factor: Tensor) -> list[Packed]:
    work, group = plane.work, plane.group
    columns = len(work)
    codes = torch.empty(work.shape, dtype=torch.uint8, device=work.device)
    grids = []
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.empty(stop - start, work.shape[1], device=work.device)
        for column in range(start, stop):
            if column % group == 0:
                ahead = slice(column, min(column + group, columns))
                grids.append(plane.search(ahead, importance[ahead]))
            codes[column], values = plane.codes_and_values(work[column], grids[-1])
            error = work[column].sub(values).div_(factor[column, column])
            errors[column - start] = error
            if column + 1 < stop:
                work[column + 1 : stop].addr_(factor[column, column + 1 : stop], error, alpha=-1)
        if stop < columns:
            work[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    return plane.packed(codes, grids)
