"""The size of the error alone: no data. The cheap baselines, which have no unit of loss."""

import math

import torch

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part, without_data
from bitplan.sensitivity.losses import Losses


class WeightError(AbstractEstimator):
    """|dW|^2 / |W|^2, the noise-to-signal ratio of the weight."""

    def judge(self, part: Part) -> Losses:
        """The ratio of the rows' squared error to the whole weight's squared norm."""
        total = part.error.square().sum(dtype=torch.float64).item()
        return without_data(total / part.norm if part.norm else 0.0)


class Sqnr(AbstractEstimator):
    """10 log10(1 + |dW|^2 / |W|^2): signal-to-quantization-noise in decibels, turned to a loss.

    SQNR itself falls without bound as the error goes to zero, and so adds up to nothing useful.
    """

    by_rows = False

    def judge(self, part: Part) -> Losses:
        """Decibels that the noise adds to the signal's power."""
        return without_data(10 / math.log(10) * math.log1p(WeightError().judge(part).loss))
