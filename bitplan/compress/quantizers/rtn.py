"""Rounding to the nearest code, column by column on its own.

`rtn` takes the grid from each group's minimum to its maximum: no data, the baseline. `clip`
searches the grid that minimises the squared error weighted by H's diagonal.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.grid import Levels, full_range, search_range, stacked, unstacked
from bitplan.formats import Packed
from bitplan.schema import Scheme


def rtn(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    covariance: Float[Tensor, "in in"] | None = None,
) -> list[Packed]:
    """Render one weight in several integer schemes of one group size; H is not read."""
    return _round(weight, schemes, lambda group, _, levels: full_range(group, levels))


def clip(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    covariance: Float[Tensor, "in in"] | None = None,
) -> list[Packed]:
    """Render one weight in several integer schemes of one group size; without H all columns weigh
    the same."""
    ones = torch.ones(weight.shape[1], device=weight.device)
    importance = ones if covariance is None else covariance.diagonal()
    return _round(
        weight,
        schemes,
        lambda group, columns, levels: search_range(group, importance[columns], levels),
    )


def _round(
    weight: Tensor,
    schemes: Sequence[Scheme],
    fit: Callable[[Tensor, slice, Levels], tuple[Tensor, Tensor]],
) -> list[Packed]:
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
