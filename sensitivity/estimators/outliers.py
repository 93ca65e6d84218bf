"""How much a layer matters, told from its outliers: a layer's score times its relative error.

No backward pass is needed, and the scores have no unit of loss.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part, without_data
from bitplan.sensitivity.estimators.spread import losses_of
from bitplan.sensitivity.estimators.weight_error import WeightError
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.moments.moment import Sums

DEVIATIONS = 1.0
"""A weight this many standard deviations above the mean is an outlier (z-score distribution)."""

TIMES_MEAN = 5.0
"""An outlier's score is this many times its layer's mean (OWL's M)."""

STEP = 0.2
"""Of the log of a score: how many outliers there are on either side tells how fast they change."""


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
    """OWL's layer-wise outlier ratio (Yin et al., 2023, eq. 2), times |dW|^2 / |W|^2.

    The ratio is the share of |W_oi| |x_i| above 5 times their mean; |x_i| is the norm of input i.
    """

    moments = ("inputs",)
    by_rows = False

    def judge(self, part: Part) -> Losses:
        """The share of outliers times the relative weight error."""
        sums, relative = part.statistics["inputs"], WeightError().judge(part).loss
        squares = sums["inputs"].diagonal(dim1=-2, dim2=-1)
        scores = part.weight.abs() * squares.sqrt().unsqueeze(-2)
        share = (scores > TIMES_MEAN * scores.mean()).double().mean().item()
        by_sequence = _slopes(scores) * _shares(sums, squares) * relative
        return losses_of(share * relative, by_sequence.flatten(1).sum(1), part.statistics)


def _slopes(scores: Float[Tensor, "*experts out in"]) -> Float[Tensor, "*experts in"]:
    """How the share of outliers grows with the log of each input's square."""
    least, factor = TIMES_MEAN * scores.mean(), math.exp(STEP)
    near = ((scores > least / factor) & (scores <= least * factor)).double().sum(-2)
    grows = near / (2 * STEP * scores.numel())
    # The mean of the scores, and so what an outlier is, grows with it.
    return (grows - grows.sum() * scores.double().sum(-2) / scores.double().sum()) / 2


def _shares(sums: Sums, squares: Tensor) -> Float[Tensor, "sequences *experts in"]:
    """Each sequence's share of the squares of an input."""
    own = sums["diagonals"] + sums["lookup"] if "lookup" in sums else sums["diagonals"]
    return own.double() / squares.double().clamp_min(torch.finfo(squares.dtype).tiny)
