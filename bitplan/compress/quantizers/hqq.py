"""HQQ, half-quadratic quantization (Badri and Shaji, 2023): no data, few outliers decide nothing.

The grid of a group is the one that covers it, moved to where the errors e of its weights are small
in a norm of p < 1, sum |e|^p, to which the many small errors matter more than the few large ones.
Half-quadratic splitting makes two easy steps of that, with s the part of the errors that is
borne and z what moves:

    s = sign(e) max(|e| - |e|^(p - 1) / beta, 0),    z = argmin |W - s - W_q(z)|^2  (codes fixed),

and beta grows. As published z is the offset, and the scale stays. Where a row has no offset, with
symmetric integers and codebooks, z is the scale, by the same norm and the same steps.

Two things differ. Errors are counted in units of the group's own, its mean error at the start being
a quarter (so one step of an even grid): as published, beta depends on the unit of the weights. And
each group keeps the best of the grids that it passed, where the paper stops all groups at once.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.compress.quantizers.rtn import by_score, rounded
from bitplan.compress.sparsifiers import magnitude
from bitplan.formats import Packed
from bitplan.schema import Scheme

P = 0.7
"""Of the norm."""

BETA, GROWTH, STEPS = 10.0, 1.01, 20
"""The published schedule: the first beta, what it is multiplied by at each step, and steps."""

LEAST = 1e-12
"""Errors below count as this: a negative power of zero is no number."""


def hqq(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
) -> list[Packed]:
    """Render one weight in several coded schemes; H is not read."""
    return rounded(weight, schemes, reach, half_quadratic, by_score(magnitude))


def half_quadratic(plane: AbstractPlane, group: slice) -> Grid:
    """The grid of a group; what is not kept has no part in it."""
    weight = plane.weight(group)
    counts = plane.matters(group, torch.ones(len(weight), device=weight.device))
    grid = best = plane.full(group)
    values = plane.codes_and_values(weight, grid)[1]
    error = weight - values
    unit = error.abs().mul_(counts).mean(0).mul_(4)
    unit = torch.where(unit > 0, unit, 1.0)
    size, power = _sizes(error, unit)
    least = (size * power).mul_(counts).sum(0)
    for step in range(STEPS):
        borne = size.sub_(power.div_(BETA * GROWTH**step)).clamp_min_(0).mul_(unit)
        grid = plane.toward(group, grid, values, weight - borne.copysign_(error))
        values = plane.codes_and_values(weight, grid)[1]
        error = weight - values
        size, power = _sizes(error, unit)
        found = (size * power).mul_(counts).sum(0)
        better = found < least
        least = torch.where(better, found, least)
        best = tuple(torch.where(better, one, old) for one, old in zip(grid, best, strict=True))
    return best


def _sizes(error: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """|e| and |e|^(p - 1), whose product is the norm's part of each."""
    size = (error / unit).abs_().clamp_min_(LEAST)
    return size, size.pow(P - 1)
