"""DiscQuant's rounding (Chee et al., 2025), by the layer's loss.

Each weight w lies between two neighbours on its group's grid, and may first be anything between
them. At either neighbour (x - w)^2 is a linear function of x, so what is minimised is the loss and
that function, which drives every x that the loss leaves free to an end; then x is rounded to the
nearest. Where the loss has few directions that matter, few weights are left between.

As published the loss is the KL of the whole model, by stochastic gradients, and the linear term has
one factor throughout. Here it is tr(R H R') with R = W - X and H as in GPTQ, whose gradient is
exact; the factor, in units of H's diagonal, rises, and steps are those of accelerated projected
gradients (Beck and Teboulle, 2009, FISTA). The grids are those that GPTQ rounds to at last.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.compress.quantizers.begun import Found, begun_by_gptq

STEPS = 100
FIRST, LAST = 0.03, 3.0
"""Factors of the linear term, in units of H's diagonal: docs/quality.md has what they leave."""

POWER_STEPS = 20
"""Of the iteration that tells how curved the loss is at most."""


@begun_by_gptq
def discquant(
    plane: AbstractPlane,
    original: Float[Tensor, "in rows"],
    codes: UInt8[Tensor, "in rows"],
    grids: list[Grid],
    curvature: Curvature,
) -> Found:
    """One of the two neighbours of each weight as it was."""
    low, high = _neighbours(plane, original, grids)
    between = _driven(original, low, high, curvature.matrix)
    rounded = torch.where(2 * between >= low + high, high, low)
    for index, grid in enumerate(grids):
        group = plane.columns(index)
        codes[group] = plane.codes(rounded[group], grid)
    return codes, grids


def _neighbours(
    plane: AbstractPlane, original: Float[Tensor, "in rows"], grids: list[Grid]
) -> tuple[Tensor, Tensor]:
    """The two values around each weight; the same one twice where there is none beyond."""
    low, high = torch.empty_like(original), torch.empty_like(original)
    for index, grid in enumerate(grids):
        group = plane.columns(index)
        weight = original[group]
        nearest = plane.codes_and_values(weight, grid)[1]
        beyond = nearest + (weight - nearest).sign() * plane.step(grid)
        other = plane.codes_and_values(beyond, grid)[1]
        torch.minimum(nearest, other, out=low[group])
        torch.maximum(nearest, other, out=high[group])
    if plane.mask is not None:
        low.mul_(plane.mask)
        high.mul_(plane.mask)
    return low, high


def _driven(
    original: Float[Tensor, "in rows"], low: Tensor, high: Tensor, matrix: Tensor
) -> Float[Tensor, "in rows"]:
    """Where between its neighbours each weight is driven."""
    toward = (low + high).sub_(original, alpha=2).div_(2)
    diagonal = matrix.diagonal().unsqueeze(1)
    step = 1 / _largest_curvature(matrix)
    now = ahead = original.clamp(low, high)
    momentum = 1.0
    for index in range(STEPS):
        factor = FIRST * (LAST / FIRST) ** (index / (STEPS - 1))
        slope = (matrix @ (ahead - original)).div_(diagonal).add_(toward, alpha=factor)
        before, now = now, torch.clamp(ahead - step * slope, low, high)
        after = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = now + (now - before) * ((momentum - 1) / after)
        momentum = after
    return now


def _largest_curvature(matrix: Float[Tensor, "in in"]) -> float:
    """The largest eigenvalue of H over its diagonal, a little more rather than less."""
    diagonal = matrix.diagonal()
    vector = torch.ones_like(diagonal)
    norm = vector.norm()
    for _ in range(POWER_STEPS):
        vector = matrix @ (vector / norm) / diagonal
        norm = vector.norm()
    return 1.1 * float(norm)
