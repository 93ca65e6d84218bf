"""The Kronecker-factored Fisher information (K-FAC, Martens and Grosse, 2015)."""

import torch
from torch import Tensor

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part
from bitplan.sensitivity.estimators.spread import forms, losses_of
from bitplan.sensitivity.losses import Losses


class Kronecker(AbstractEstimator):
    """1/2 <G dW A, dW>, with A = 1/T sum_t x_t x_t' and G = 1/T sum_t g_t g_t'.

    Inputs and gradients are taken to be independent, which the tokens that attention gathers on
    are not.
    """

    moments = ("inputs", "outputs")
    by_rows = False

    def judge(self, part: Part) -> Losses:
        """Half of the quadratic form of both factors."""
        inputs, outputs = part.statistics["inputs"], part.statistics["outputs"]
        # Of experts, each has its own count of tokens: G is a sum, A a mean over those.
        reached = part.statistics.rows.clamp_min(1)
        error, mean = part.error, part.error / reached[..., None, None]
        weighted, moved = _weigh(outputs["outputs"], error), mean @ inputs["inputs"]
        by_expert = (weighted * moved).sum((-2, -1), dtype=torch.float64)
        twice = 2 * part.statistics.tokens
        # To first order a sequence adds to a product what it adds to each factor; to A, a mean, it
        # adds its tokens' difference from that.
        by_sequence = forms(weighted, mean, inputs) + forms(error.mT, moved.mT, outputs)
        taken = inputs["counts"] / reached * by_expert
        by_sequence -= taken.reshape(len(by_sequence), -1).sum(1, keepdim=True)
        loss = max(0.0, by_expert.sum().item() / twice)
        return losses_of(loss, by_sequence / twice, part.statistics)


def _weigh(outputs: Tensor, error: Tensor) -> Tensor:
    is_diagonal = outputs.dim() < error.dim()
    return outputs.unsqueeze(-1) * error if is_diagonal else outputs @ error
