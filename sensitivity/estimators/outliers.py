"""How much a layer matters, told from its outliers: a layer's score times its relative error.

No backward pass is needed, and the scores have no unit of loss.
"""

import torch

from bitplan.sensitivity.estimators.estimator import (
    AbstractEstimator,
    Part,
    spread_by_diagonals,
    without_data,
)
from bitplan.sensitivity.estimators.weight_error import WeightError
from bitplan.sensitivity.losses import Losses

DEVIATIONS = 1.0
"""A weight this many standard deviations above the mean is an outlier (z-score distribution)."""

TIMES_MEAN = 5.0
"""An outlier's score is this many times its layer's mean (OWL's M)."""


class WeightOutliers(AbstractEstimator):
    """Share of weights whose z-score is above 1, times |dW|^2 / |W|^2.

    The z-score distribution of Layer-Wise Quantization (Dumitru et al., 2024, section 3.2); reads
    the weights alone.
    """

    by_rows = False

    def judge(self, part: Part) -> Losses:
        """The share of outliers times the relative weight error."""
        weight = part.weight
        deviation, mean = torch.std_mean(weight)
        share = (weight > mean + DEVIATIONS * deviation).double().mean().item()
        return without_data(share * WeightError().judge(part).loss)


class OutlierRatio(AbstractEstimator):
    """1 + OWL's layer-wise outlier ratio (Yin et al., 2023, eq. 2), times |dW|^2 / |W|^2.

    The ratio is the share of |W_oi| |x_i| above 5 times their mean; |x_i| is the norm of input i
    (arXiv:2310.05175). The paper ranks layers by it, and lets their sparsity differ by some percent
    from the mean. As a factor of its own it would call every error free in a layer that has no
    outliers: added to one, it ranks equal errors as the paper does, and none is free.
    """

    moments = ("inputs",)
    by_rows = False

    def judge(self, part: Part) -> Losses:
        """One and the share of outliers, times the relative weight error."""
        sums = part.statistics["inputs"]
        norms = sums["inputs"].diagonal(dim1=-2, dim2=-1).sqrt().unsqueeze(-2)
        scores = part.weight.abs() * norms
        share = (scores > TIMES_MEAN * scores.mean()).double().mean().item()
        loss = (1 + share) * WeightError().judge(part).loss
        return spread_by_diagonals(loss, part.error, sums["diagonals"], part.statistics)
