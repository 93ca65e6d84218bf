"""The error of the layer's own output: what most post-training quantizers minimise."""

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part
from bitplan.sensitivity.estimators.quadratic_form import quadratic_form
from bitplan.sensitivity.estimators.spread import forms, losses_of
from bitplan.sensitivity.losses import Losses


class OutputError(AbstractEstimator):
    """1/T tr(dW X'X dW'), the mean squared error of a token's output (Frantar et al., 2023, eq. 1).

    Its unit is the output's, squared: it says nothing of how much the loss cares.
    """

    moments = ("inputs",)

    def judge(self, part: Part) -> Losses:
        """The squared error of the rows' outputs, a mean over tokens."""
        sums = part.statistics["inputs"]
        total = quadratic_form(part.error, sums["inputs"]).sum().item()
        tokens = part.statistics.tokens
        by_sequence = forms(part.error, part.error, sums) / tokens
        return losses_of(max(0.0, total / tokens), by_sequence, part.statistics)
