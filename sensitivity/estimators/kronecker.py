"""The Kronecker-factored Fisher information (K-FAC, Martens and Grosse, 2015)."""

import torch
from torch import Tensor

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part, spread_by_diagonals
from bitplan.sensitivity.losses import Losses


class Kronecker(AbstractEstimator):
    """1/2 <G dW A, dW>, with A = 1/T sum_t x_t x_t' and G = 1/T sum_t g_t g_t' (eq. 1).

    Inputs and gradients are taken to be independent, which the tokens that attention gathers on
    are not.
    """

    moments = ("inputs", "outputs")
    by_rows = False

    def judge(self, part: Part) -> Losses:
        """Half of the quadratic form of both factors."""
        sums, tokens = part.statistics["inputs"], part.statistics.tokens
        # Of experts, each has its own count of tokens: G is a sum, A a mean over those.
        reached = part.statistics.rows.clamp_min(1)[..., None, None]
        weighted = _weigh(part.statistics["outputs"]["outputs"], part.error)
        inputs = sums["inputs"] / reached
        total = (weighted @ inputs).mul_(part.error).sum(dtype=torch.float64).item()
        loss = max(0.0, total / (2 * tokens))
        return spread_by_diagonals(loss, part.error, sums["diagonals"], part.statistics)


def _weigh(outputs: Tensor, error: Tensor) -> Tensor:
    is_diagonal = outputs.dim() < error.dim()
    return outputs.unsqueeze(-1) * error if is_diagonal else outputs @ error
