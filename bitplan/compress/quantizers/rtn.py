"""Rounding to the nearest code, column by column on its own.

`rtn` takes the grid from each group's minimum to its maximum: no data, the baseline. `clip`
searches the grid that minimises the squared error weighted by H's diagonal.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.grid import (
    Levels,
    by_group_size,
    full_range,
    search_range,
    stacked,
    unstacked,
)
from bitplan.formats import Packed
from bitplan.schema import Scheme

Fit = Callable[[Tensor, slice, Levels], tuple[Tensor, Tensor]]
"""(a group's columns of the weight, which they are, levels) -> scale and offset"""


def rtn(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
) -> list[Packed]:
    """Render one weight in several integer schemes; H is not read."""
    return _round(weight, schemes, lambda group, _, levels: full_range(group, levels))


def clip(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
) -> list[Packed]:
    """Render one weight in several integer schemes; without H all columns weigh the same."""
    ones = torch.ones(weight.shape[1], device=weight.device)
    importance = ones if curvature is None else curvature.importance
    return _round(
        weight,
        schemes,
        lambda group, columns, levels: search_range(group, importance[columns], levels),
    )


def _round(
    weight: Tensor,
    schemes: Sequence[Scheme],
    fit: Fit,
) -> list[Packed]:
    return by_group_size(schemes, lambda alike: _round_alike(weight, alike, fit))


def _round_alike(weight: Tensor, schemes: Sequence[Scheme], fit: Fit) -> list[Packed]:
    columns = weight.shape[1]
    group = schemes[0].group_size or columns
    work = stacked(weight, schemes)
    levels = Levels.of(schemes, work)
    codes = torch.empty(work.shape, dtype=torch.uint8, device=work.device)
    grids = []
    for start in range(0, columns, group):
        ahead = slice(start, min(start + group, columns))
        grids.append(fit(work[ahead], ahead, levels))
        codes[ahead] = levels.quantize(work[ahead], *grids[-1]) + levels.half
    return unstacked(codes, grids, schemes, len(weight))
