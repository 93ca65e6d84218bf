"""The diagonal Fisher information: every weight on its own."""

from dataclasses import dataclass

import torch

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part, spread_by_diagonals
from bitplan.sensitivity.losses import Losses


@dataclass(frozen=True, kw_only=True)
class FisherDiagonal(AbstractEstimator):
    """1/2 sum F dW^2, with F_oi = 1/T sum_t g_to^2 x_ti^2.

    The empirical Fisher token by token with the data's labels, the true one with labels sampled
    from the model (Kunstner et al., 2019); compare LQ-LoRA, Guo et al., 2023, eq. 5.
    """

    labels: str = "data"

    moments = ("fisher",)

    def judge(self, part: Part) -> Losses:
        """Half of the weighted squared error."""
        sums = part.statistics["fisher"]
        fisher = sums["fisher"][..., part.rows, :]
        total = part.error.square().mul_(fisher).sum(dtype=torch.float64).item()
        loss = total / (2 * part.statistics.tokens)
        return spread_by_diagonals(loss, part.error, sums["diagonals"], part.statistics)
