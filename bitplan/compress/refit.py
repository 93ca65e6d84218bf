"""Where a group's grid lies best under the loss of the whole row, its codes as they are.

With R = W - W_q and H, moving the values of a group by D changes tr(R H R') by

    -2 <D, (R H)_g> + tr(D H_gg D'),

and a grid moves them along its unit levels, along ones where it has an offset, or along each of two
planes: least squares in one unknown or two for each row. What comes of it is rounded as it will be
stored, and taken by the rows whose loss is lower then.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
    both = _Both.along(units, ones, slope, matrix)
    rise, shift = both.best(~symmetric)
    wanted, moved = stored.scale(scale + rise), stored.offset(offset + shift)
    moved = torch.where(symmetric, offset, moved)
    better = (wanted > 0) & (both.gain(wanted - scale, moved - offset) > 0)
    return torch.where(better, wanted, scale), torch.where(better, moved, offset)


def refit_planes(
    scales: tuple[Tensor, Tensor],
    planes: Float[Tensor, "2 group rows"],
    slope: Float[Tensor, "group rows"],
    matrix: Float[Tensor, "group group"],
    stored: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows"]]:
    """The scales of two planes together."""
    first, second = scales
    both = _Both.along(planes[0], planes[1], slope, matrix)
    rise, shift = both.best()
    wanted, other = stored(first + rise, second + shift)
    better = both.gain(wanted - first, other - second) > 0
    return torch.where(better, wanted, first), torch.where(better, other, second)


@dataclass(frozen=True, kw_only=True)
class _Both:
    """The loss of each row along two directions: a, b and c its second derivatives."""

    a: Float[Tensor, "rows"]
    b: Float[Tensor, "rows"]
    c: Float[Tensor, "rows"]
    first: Float[Tensor, "rows"]
    second: Float[Tensor, "rows"]

    @classmethod
    def along(cls, one: Tensor, other: Tensor, slope: Tensor, matrix: Tensor) -> "_Both":
        of_one, of_other = matrix @ one, matrix @ other
        return cls(
            a=_dot(one, of_one),
            b=_dot(other, of_one),
            c=_dot(other, of_other),
            first=_dot(one, slope),
            second=_dot(other, slope),
        )

    def best(self, joint: Tensor | bool = True) -> tuple[Tensor, Tensor]:
        """How far to go along both, or along the first where a row may not be `joint`."""
        determinant = self.a * self.c - self.b * self.b
        # Codes that are all the same move with the offset alone as well as with the scale.
        joint = joint & (determinant > 1e-4 * self.a * self.c)
        by = torch.where(joint, determinant, 1.0)
        alone = self.first / torch.where(self.a > 0, self.a, 1.0)
        rise = torch.where(joint, (self.c * self.first - self.b * self.second) / by, alone)
        shift = torch.where(joint, (self.a * self.second - self.b * self.first) / by, 0.0)
        return rise, shift

    def gain(self, rise: Tensor, shift: Tensor) -> Float[Tensor, "rows"]:
        """What the loss falls by."""
        straight = 2 * (rise * self.first + shift * self.second)
        bent = rise * rise * self.a + 2 * rise * shift * self.b + shift * shift * self.c
        return straight - bent


def _dot(one: Tensor, other: Tensor) -> Float[Tensor, "rows"]:
    return (one * other).sum(0)
