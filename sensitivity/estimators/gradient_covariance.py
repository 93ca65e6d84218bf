"""The gradient-weighted input covariance: cost and rendering read one statistic."""

import torch

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part, spread_by_diagonals
from bitplan.sensitivity.losses import Losses


class GradientCovariance(AbstractEstimator):
    """1/2 tr(dW H dW'), H the gradient-weighted input covariance of `moments.covariance`."""

    moments = ("covariance",)

    def judge(self, part: Part) -> Losses:
        """Half of the quadratic form."""
        sums = part.statistics["covariance"]
        total = (part.error @ sums["covariance"]).mul_(part.error).sum(dtype=torch.float64).item()
        loss = max(0.0, total / (2 * part.statistics.tokens))
        return spread_by_diagonals(loss, part.error, sums["diagonals"], part.statistics)
