"""How a loss varies from sequence to sequence: what each one makes of the same error."""

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.moments.moment import Sums
from bitplan.sensitivity.statistics import LayerStatistics


def forms(
    left: Float[Tensor, "*experts rows in"],
    right: Float[Tensor, "*experts rows in"],
    sums: Sums,
    *,
    discount: float = 0.0,
) -> Float[Tensor, "sequences sketches"]:
    """tr(left H_s right') of each sequence's own covariance H_s, as each of its sketches tells it.

    `discount` is the share by which what is beside the diagonal of H_s counts less.

    A sketch z tells z' M z, with M = left' right. Its part on M's diagonal, sum_i M_ii z_i^2, is
    known exactly without signs, from `diagonals`: so it is taken out as a control variate. Of the
    errors of rounding to nearest that is nearly all; those of GPTQ cancel it, and it stays in.
    """
    columns = (left * right).sum(-2)
    exact = _by_sequence(sums["diagonals"] * columns)
    if "sketches" in sums:
        rows = sums["sketches"].movedim(0, -3).flatten(-3, -2)
        shape = len(exact), sums["sketches"].shape[-2]
        told = _by_row(_products(left, right, rows)).view(shape)
        diagonal = _by_row((rows.square() * columns.unsqueeze(-2)).sum(-1)).view(shape)
        found = told - _slope(told, diagonal) * (diagonal - exact)
        found += discount * (exact - found)
    else:
        found = exact
    # A lookup's covariance is a diagonal.
    return found + _by_sequence(sums["lookup"] * columns) if "lookup" in sums else found


def losses_of(
    loss: float, sums: Float[Tensor, "sequences *draws"], statistics: LayerStatistics
) -> Losses:
    """A loss, and what each sequence adds to it: the loss by sequence, with the loss as its mean.

    What the sketches add up to is only nearly the loss.
    """
    kept = statistics.sequences > 0  # sequences are of one length, but for those left out
    by_sequence = sums[kept].double() * kept.sum()
    by_sequence += loss - by_sequence.mean()
    return Losses(loss=loss, by_sequence=by_sequence.numpy())


def _products(left: Tensor, right: Tensor, rows: Tensor) -> Float[Tensor, "*experts sketches"]:
    outputs = left @ rows.mT
    others = outputs if left is right else right @ rows.mT
    return (outputs * others).sum(-2)


def _by_sequence(parts: Float[Tensor, "sequences *more in"]) -> Float[Tensor, "sequences 1"]:
    return parts.flatten(1).sum(1, keepdim=True, dtype=torch.float64)


def _by_row(parts: Float[Tensor, "*experts rows"]) -> Float[Tensor, "rows"]:
    return parts.view(-1, parts.shape[-1]).sum(0, dtype=torch.float64)


def _slope(told: Float[Tensor, "sequences sketches"], diagonal: Tensor) -> Tensor:
    """What is best taken out: the regression of one on the other, within sequences."""
    told = told - told.mean(1, keepdim=True)
    diagonal = diagonal - diagonal.mean(1, keepdim=True)
    spread = diagonal.square().sum()
    return (told * diagonal).sum() / spread if spread > 0 else torch.ones_like(spread)
