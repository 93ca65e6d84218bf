"""The diagonal Fisher information: every weight on its own."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part
from bitplan.sensitivity.estimators.spread import losses_of
from bitplan.sensitivity.losses import Losses


@dataclass(frozen=True, kw_only=True)
class FisherDiagonal(AbstractEstimator):
    """1/2 sum F dW^2, with F_oi = 1/T sum_t g_to^2 x_ti^2.

    The empirical Fisher token by token with the data's labels, the true one with labels sampled
    from the model (Kunstner et al., 2019); compare LQ-LoRA, Guo et al., 2023.
    """

    labels: str = "data"

    moments = ("fisher",)

    def judge(self, part: Part) -> Losses:
        """Half of the weighted squared error."""
        sums = part.statistics["fisher"]
        fisher = sums["fisher"][..., part.rows, :]
        squares = part.error.square()
        total = (squares * fisher).sum(dtype=torch.float64).item()
        loss = total / (2 * part.statistics.tokens)
        by_sequence = _by_sequence(squares, sums["rows"][..., part.rows], sums["columns"])
        scale = loss / by_sequence.sum() if by_sequence.any() else 0.0
        return losses_of(loss, by_sequence * scale, part.statistics)


def _by_sequence(
    squares: Float[Tensor, "*experts rows in"],
    rows: Float[Tensor, "sequences *experts rows"],
    columns: Float[Tensor, "sequences *experts in"],
) -> Float[Tensor, "sequences"]:
    """What each sequence makes of the squared errors, its own F of rank one from both its means."""
    columns = columns / columns.mean(-1, keepdim=True).clamp_min(torch.finfo(columns.dtype).tiny)
    weighted = (rows.movedim(0, -2) @ squares) * columns.movedim(0, -2)
    return weighted.sum(-1, dtype=torch.float64).reshape(-1, len(columns)).sum(0)
