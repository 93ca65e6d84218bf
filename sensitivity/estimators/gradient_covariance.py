"""The gradient-weighted input covariance: cost and rendering read one statistic."""

import torch
from torch import Tensor

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part, spread_by_diagonals
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.moments.grouped_covariance import group_of


class GradientCovariance(AbstractEstimator):
    """1/2 tr(dW H dW'), H the gradient-weighted input covariance of `moments.covariance`."""

    moments = ("covariance",)

    def judge(self, part: Part) -> Losses:
        """Half of the quadratic form."""
        sums = part.statistics["covariance"]
        total = (part.error @ sums["covariance"]).mul_(part.error).sum(dtype=torch.float64).item()
        loss = max(0.0, total / (2 * part.statistics.tokens))
        return spread_by_diagonals(loss, part.error, sums["diagonals"], part.statistics)


class GroupedGradientCovariance(AbstractEstimator):
    """1/2 sum over groups of outputs of tr(dW_g H_g dW_g'), an H of its own for each group."""

    moments = ("grouped_covariance",)

    def judge(self, part: Part) -> Losses:
        """Half of the groups' quadratic forms."""
        sums = part.statistics["grouped_covariance"]
        outputs = int(sums["counts"].sum())
        group = group_of(outputs)[part.rows]
        total = 0.0
        for index in group.unique().tolist():
            error = part.error[..., group == index, :]
            covariance: Tensor = sums["covariances"][..., index, :, :]
            total += (error @ covariance).mul_(error).sum(dtype=torch.float64).item()
        loss = max(0.0, total / (2 * part.statistics.tokens))
        return spread_by_diagonals(loss, part.error, sums["diagonals"], part.statistics)
