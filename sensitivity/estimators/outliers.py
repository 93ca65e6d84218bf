"""How much a layer matters, told from its outliers: a layer's score times its relative error.

No backward pass is needed, and the scores have no unit of loss.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part, without_data
from bitplan.sensitivity.estimators.spread import losses_of
from bitplan.sensitivity.estimators.weight_error import WeightError
from bitplan.sensitivity.losses import Losses

DEVIATIONS = 1.0
"""A weight this many standard deviations above the mean is an outlier (z-score distribution)."""

TIMES_MEAN = 5.0
"""An outlier's score is this many times its layer's mean (OWL's M)."""

ROWS_COMPARED = 1024
"""Of a layer, where the outliers are counted again without each sequence."""


class WeightOutliers(AbstractEstimator):
    """Share of weights whose z-score is above 1, times |dW|^2 / |W|^2.

    The z-score distribution of Layer-Wise Quantization (Dumitru et al., 2024); reads
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
    """1 + OWL's layer-wise outlier ratio (Yin et al., 2023), times |dW|^2 / |W|^2.

    The ratio is the share of |W_oi| |x_i| above 5 times their mean; |x_i| is the norm of input i
    (arXiv:2310.05175). The paper ranks layers by it, and lets their sparsity differ by some percent
    from the mean. As a factor of its own it would call every error free in a layer that has no
    outliers: added to one, it ranks equal errors as the paper does, and none is free.
    """

    moments = ("inputs",)
    by_rows = False

    def judge(self, part: Part) -> Losses:
        """One and the share of outliers, times the relative weight error."""
        squares = part.statistics["inputs"]["inputs"].diagonal(dim1=-2, dim2=-1)
        share, relative = _share(part.weight, squares), WeightError().judge(part).loss
        by_sequence = _by_sequence(part, squares) * relative
        return losses_of((1 + share) * relative, by_sequence, part.statistics)


def _share(weight: Tensor, squares: Float[Tensor, "*experts in"]) -> float:
    scores = weight.abs() * squares.sqrt().unsqueeze(-2)
    return (scores > TIMES_MEAN * scores.mean()).double().mean().item()


def _by_sequence(part: Part, squares: Float[Tensor, "*experts in"]) -> Float[Tensor, "sequences"]:
    """What each sequence adds to the share of outliers: pseudo-values of the jackknife."""
    sums, rows = part.statistics["inputs"], part.weight.shape[-2]
    own = sums["diagonals"] + sums["lookup"] if "lookup" in sums else sums["diagonals"]
    weight = part.weight[..., :: max(1, rows // ROWS_COMPARED), :]
    without = [_share(weight, (squares - one).clamp_min(0)) for one in own]
    return _share(weight, squares) - torch.tensor(without, dtype=torch.float64)
