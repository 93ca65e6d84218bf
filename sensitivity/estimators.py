"""What an error of a weight costs: estimates from the statistics of one pass.

Each takes the error dW of the weight as rendered, so that cost and compression agree.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.errors import InputError
from bitplan.sensitivity.statistics import LayerStatistics


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Expected increase of KL, nats per token, and its standard error over the batches."""

    loss: float
    standard_error: float


Estimator = Callable[[Tensor, Tensor, LayerStatistics, int], Estimate]
"""(error [*experts, out, in], weight of the same shape, statistics, tokens) -> estimate"""


def gradient_covariance(
    error: Float[Tensor, "*experts out in"],
    weight: Float[Tensor, "*experts out in"],
    statistics: LayerStatistics,
    tokens: int,
) -> Estimate:
    """1/2 tr(dW H dW'), H the gradient-weighted input covariance (`statistics`)."""
    total = (error @ statistics.covariance).mul_(error).sum(dtype=torch.float64).item()
    return _with_noise(total / (2 * tokens), error, statistics)


def fisher_diagonal(
    error: Float[Tensor, "*experts out in"],
    weight: Float[Tensor, "*experts out in"],
    statistics: LayerStatistics,
    tokens: int,
) -> Estimate:
    """1/2 sum F dW^2, F the diagonal of the Fisher information of single tokens.

    F_oi = 1/T sum_t g_to^2 x_ti^2, the empirical Fisher token by token (compare LQ-LoRA, Guo et
    al., 2023). An embedding's rows share the diagonal of H.
    """
    fisher = statistics.fisher
    if fisher is None:
        fisher = statistics.covariance.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
    total = error.square().mul_(fisher).sum(dtype=torch.float64).item()
    return _with_noise(total / (2 * tokens), error, statistics)


def weight_error(
    error: Float[Tensor, "*experts out in"],
    weight: Float[Tensor, "*experts out in"],
    statistics: LayerStatistics,
    tokens: int,
) -> Estimate:
    """|dW|^2 / |W|^2: no data, and no unit. The cheap baseline."""
    norm = weight.square().sum(dtype=torch.float64).item()
    total = error.square().sum(dtype=torch.float64).item()
    return Estimate(loss=total / norm if norm else 0.0, standard_error=0.0)


def _with_noise(loss: float, error: Tensor, statistics: LayerStatistics) -> Estimate:
    """The relative spread between batches, told by their probes, scaled to the loss.

    The noise of the few probes is in it, so it errs on the large side.
    """
    probed = torch.einsum("...oi,b...pi->b...po", error, statistics.probes)
    by_batch = probed.flatten(1).square().sum(1).double()
    mean, count = by_batch.mean().item(), len(by_batch)
    if count < 2 or mean == 0:
        return Estimate(loss=loss, standard_error=loss)
    relative = by_batch.std().item() / (mean * count**0.5)
    return Estimate(loss=loss, standard_error=loss * relative)


ESTIMATORS: dict[str, Estimator] = {
    "gradient_covariance": gradient_covariance,
    "fisher_diagonal": fisher_diagonal,
    "weight_error": weight_error,
}
"""In order of preference."""


def get_estimator(name: str) -> Estimator:
    """The estimator of a name; raises `InputError` with those there are."""
    if name not in ESTIMATORS:
        raise InputError(f"There is no estimator {name!r}. Choose one of: {', '.join(ESTIMATORS)}.")
    return ESTIMATORS[name]


def estimate(
    name: str,
    error: Float[Tensor, "*experts out in"],
    weight: Float[Tensor, "*experts out in"],
    statistics: LayerStatistics,
    tokens: int,
) -> Estimate:
    """What the estimator of a name says; of a layer that calibration never reached, something else.

    Its statistics are zero, which would call every error in it free. Its relative weight error in
    nats stands in: far more than most layers' loss, and with a standard error as large as itself.
    """
    if statistics.reached.any():
        return get_estimator(name)(error, weight, statistics, tokens)
    loss = weight_error(error, weight, statistics, tokens).loss
    return Estimate(loss=loss, standard_error=loss)
