"""Where a group's grid lies best under the loss of the whole row, its codes as they are.

With R = W - W_q and H, moving the values of a group by D changes tr(R H R') by

    -2 <D, (R H)_g> + tr(D H_gg D'),

and a grid moves them along its unit levels, and along ones where it has an offset: least squares in
one unknown or two for each row. What comes of it is rounded as it will be stored, and taken by the
rows whose loss is lower then.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitplan.compress.stored import AbstractStored


def refit_scale(
    scale: Float[Tensor, "rows"],
    values: Float[Tensor, "group rows"],
    slope: Float[Tensor, "group rows"],
    matrix: Float[Tensor, "group group"],
    stored: Callable[[Tensor], Tensor],
) -> Float[Tensor, "rows"]:
    """The scale alone; `slope` is (R H)_g and `matrix` H_gg, both column-major."""
    units = values / torch.where(scale > 0, scale, 1.0)
    square, along = _dot(units, matrix @ units), _dot(units, slope)
    wanted = stored(scale + along / torch.where(square > 0, square, 1.0))
    change = wanted - scale
    better = (wanted > 0) & (change * (2 * along - change * square) > 0)
    return torch.where(better, wanted, scale)


def refit_range(
    scale: Float[Tensor, "rows"],
    offset: Float[Tensor, "rows"],
    values: Float[Tensor, "group rows"],
    slope: Float[Tensor, "group rows"],
    matrix: Float[Tensor, "group group"],
    stored: AbstractStored,
    symmetric: Bool[Tensor, "rows"],
    kept: Float[Tensor, "group rows"] | None = None,
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows"]]:
    """Scale and offset together; what is not `kept` stays zero, whatever they are."""
    ones = torch.ones_like(values) if kept is None else kept
    units = (values - offset).div_(scale).mul_(ones)
    of_units, of_ones = matrix @ units, matrix @ ones
    a, b, c = _dot(units, of_units), _dot(ones, of_units), _dot(ones, of_ones)
    along, across = _dot(units, slope), _dot(ones, slope)
    determinant = a * c - b * b
    # Codes that are all the same move with the offset alone as well as with the scale.
    joint = ~symmetric & (determinant > 1e-4 * a * c)
    by = torch.where(joint, determinant, 1.0)
    rise = torch.where(joint, (c * along - b * across) / by, along / torch.where(a > 0, a, 1.0))
    shift = torch.where(joint, (a * across - b * along) / by, 0.0)
    wanted, moved = stored.scale(scale + rise), stored.offset(offset + shift)
    moved = torch.where(symmetric, offset, moved)
    ds, do = wanted - scale, moved - offset
    gain = 2 * (ds * along + do * across) - (ds * ds * a + 2 * ds * do * b + do * do * c)
    better = (wanted > 0) & (gain > 0)
    return torch.where(better, wanted, scale), torch.where(better, moved, offset)


def _dot(one: Tensor, other: Tensor) -> Float[Tensor, "rows"]:
    return (one * other).sum(0)
