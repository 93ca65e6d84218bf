"""QuantEase (Behdin et al., 2023): coordinate descent on the layer's loss, begun where GPTQ ends.

With R = W - W_q and H the input covariance, shrunk and damped as GPTQ reads it, column j of a
weight that is all rounded is best rounded to

    nearest(W_q[:, j] + (R H)[:, j] / H_jj)

(their equation 8): what makes up for the errors of all other columns, before it and after it.
GPTQ rounds each column once, with those after it still free. In front of each sweep over the
columns the grids, too, are moved to where the loss is least with the codes as they are, which the
paper does not do: see `bitplan.compress.refit`. Neither can raise tr(R H R'). What a scheme leaves
out stays as GPTQ chose it.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.compress.quantizers.begun import Found, begun_by_gptq
from bitplan.compress.quantizers.gptq import BLOCK

SWEEPS = 4
"""Over all columns. Of 35 linears of SmolLM2-135M at 3 bits they leave 0.942, 0.926, 0.918 and then
0.914 of GPTQ's loss on average; two more would leave 0.910."""


@begun_by_gptq
def quantease(
    plane: AbstractPlane,
    original: Float[Tensor, "in rows"],
    codes: UInt8[Tensor, "in rows"],
    grids: list[Grid],
    curvature: Curvature,
) -> Found:
    """Sweeps over the columns, and grids refitted before each."""
    descend(plane, original, codes, grids, curvature.matrix)
    return codes, grids


def descend(
    plane: AbstractPlane,
    original: Float[Tensor, "in rows"],
    codes: UInt8[Tensor, "in rows"],
    grids: list[Grid],
    matrix: Float[Tensor, "in in"],
    sweeps: int = SWEEPS,
) -> None:
    """Change grids and codes, group by group and column by column, to what lowers the loss.

    `plane.work` is what GPTQ left, whose nearest codes are `codes`; it and `original`, the weight
    as it was, are overwritten.
    """
    values = plane.work
    for index, grid in enumerate(grids):
        group = plane.columns(index)
        values[group] = _kept(plane, group, plane.codes_and_values(values[group], grid)[1])
    slope = matrix @ original.sub_(values)
    for _ in range(sweeps):
        _refit(plane, values, slope, grids, matrix)
        _sweep(plane, values, slope, codes, grids, matrix)


def _refit(
    plane: AbstractPlane, values: Tensor, slope: Tensor, grids: list[Grid], matrix: Tensor
) -> None:
    for index, grid in enumerate(grids):
        group = plane.columns(index)
        before = values[group]
        grids[index] = plane.refit(group, grid, before, slope[group], matrix[group, group])
        after = plane.on_another(before, grid, grids[index])
        after = _kept(plane, group, plane.codes_and_values(after, grids[index])[1])
        slope.addmm_(matrix[:, group], before - after)
        values[group] = after


def _sweep(
    plane: AbstractPlane,
    values: Tensor,
    slope: Tensor,
    codes: Tensor,
    grids: list[Grid],
    matrix: Tensor,
) -> None:
    diagonal, columns = matrix.diagonal(), len(codes)
    for start in range(0, columns, BLOCK):
        block = slice(start, min(start + BLOCK, columns))
        changes = torch.empty_like(values[block])
        for column in range(block.start, block.stop):
            wanted = (slope[column] / diagonal[column]).add_(values[column])
            grid = grids[column // plane.group]
            codes[column], value = plane.codes_and_values(wanted, grid)
            value = _kept(plane, column, value)
            change = torch.sub(values[column], value, out=changes[column - start])
            values[column] = value
            slope[block].addr_(matrix[block, column], change)
        for part in (slice(0, block.start), slice(block.stop, columns)):
            slope[part].addmm_(matrix[part, block], changes)


def _kept(plane: AbstractPlane, at: int | slice, values: Tensor) -> Tensor:
    return values if plane.mask is None else values * plane.mask[at]
