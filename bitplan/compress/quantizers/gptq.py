"""GPTQ (Frantar et al., 2023) with searched ranges, all schemes of one weight in one pass.

Columns are rounded one after another; the error of each is spread over those still to come, so
that tr(dW H dW') stays small. With H the gradient-weighted input covariance (see
`bitplan.sensitivity.statistics`), that is the expected loss itself.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.grid import Levels, by_group_size, search_range, stacked, unstacked
from bitplan.compress.quantizers.rtn import clip
from bitplan.formats import Packed
from bitplan.schema import Scheme

BLOCK = 128
"""Columns whose errors are gathered before the columns after them are updated."""


def gptq(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
) -> list[Packed]:
    """Render one weight in several integer schemes; without H, as `clip`."""
    if curvature is None:
        return clip(weight, schemes)
    importance, factor = curvature.importance, curvature.inverse_factor
    return by_group_size(schemes, lambda alike: _gptq(weight, alike, importance, factor))


def _gptq(
    weight: Tensor, schemes: Sequence[Scheme], importance: Tensor, factor: Tensor
) -> list[Packed]:
    columns = weight.shape[1]
    group = schemes[0].group_size or columns
    work = stacked(weight, schemes)
    levels = Levels.of(schemes, work)
    codes = torch.empty(work.shape, dtype=torch.uint8, device=work.device)
    grids = []
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.empty(stop - start, work.shape[1], device=work.device)
        for column in range(start, stop):
            if column % group == 0:
                ahead = slice(column, min(column + group, columns))
                grids.append(search_range(work[ahead], importance[ahead], levels))
            scale, offset = grids[-1]
            code = levels.quantize(work[column], scale, offset)
            codes[column] = code + levels.half
            error = work[column].sub(code.mul_(scale).add_(offset)).div_(factor[column, column])
            errors[column - start] = error
            if column + 1 < stop:
                work[column + 1 : stop].addr_(factor[column, column + 1 : stop], error, alpha=-1)
        if stop < columns:
            work[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    return unstacked(codes, grids, schemes, len(weight))
