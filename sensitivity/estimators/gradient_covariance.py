"""The gradient-weighted input covariance: cost and rendering read one statistic."""

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.sensitivity.estimators.estimator import AbstractEstimator, Part
from bitplan.sensitivity.estimators.quadratic_form import quadratic_form
from bitplan.sensitivity.estimators.spread import forms, losses_of
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.moments.grouped_covariance import group_of
from bitplan.sensitivity.moments.moment import Sums

DISCOUNT = 1 / 3
"""By how much less the correlations of inputs count in a loss than in the covariance.

A quantizer that reads H makes the errors of a row cancel in it. On other text, and behind layers
that err themselves, less of that holds: of SmolLM2-135M rendered by GPTQ the losses are 0.8 of the
measured ones with all correlations, 1.2 with these, and 1.9 with none; from 0.2 to 0.7 they rank
like them best. Of weights rounded to nearest nothing changes: their errors are not correlated
(benchmarks/discount.py)."""


class GradientCovariance(AbstractEstimator):
    """1/2 sum_o r_o dW_o H dW_o', H the gradient-weighted input covariance of `moments.covariance`.

    r_o = sum_t g_to^2 over its mean over outputs: how much the loss cares for output o. That is the
    Fisher information with the token's weight and the output's as separate factors; with all r_o
    alike it is 1/2 tr(dW H dW'), which GPTQ minimises row by row in either case. What is beside
    the diagonal of H counts less, by `DISCOUNT`.
    """

    moments = ("covariance",)
    version = 2

    def judge(self, part: Part) -> Losses:
        """Half of the weighted sum of the rows' quadratic forms."""
        sums, twice = part.statistics["covariance"], 2 * part.statistics.tokens
        weights = _output_weights(sums)[..., part.rows]
        by_row = quadratic_form(part.error, sums["covariance"], discount=DISCOUNT)
        loss = max(0.0, (by_row * weights).sum().item() / twice)
        weighted = part.error * weights.sqrt().unsqueeze(-1)
        by_sequence = forms(weighted, weighted, sums, discount=DISCOUNT)
        by_sequence += _through_weights(sums["squares"], weights, by_row, part.rows)
        return losses_of(loss, by_sequence / twice, part.statistics)


def _output_weights(sums: Sums) -> Float[Tensor, "*experts out"]:
    squares = sums["squares"].sum(0)
    if "lookups" in sums and not squares.any():  # an embedding that is not its model's head
        return _row_weights(sums["lookups"])
    mean = squares.mean(-1, keepdim=True)
    return torch.where(mean > 0, squares / mean, 1.0)


def _through_weights(
    squares: Float[Tensor, "sequences *experts out"],
    weights: Float[Tensor, "*experts rows"],
    by_row: Float[Tensor, "*experts rows"],
    rows: slice,
) -> Float[Tensor, "sequences 1"]:
    """What each sequence adds to the loss, to first order, by its share in the outputs' weights."""
    mean = squares.mean(-1, keepdim=True)
    own = squares[..., rows] - weights * mean
    total = mean.sum(0).clamp_min(torch.finfo(mean.dtype).tiny)
    return (own / total * by_row).flatten(1).sum(1, keepdim=True)


def _row_weights(lookups: Float[Tensor, "vocabulary"]) -> Float[Tensor, "vocabulary"]:
    """How likely each row is to be looked up, over the mean of all rows.

    The rows that were never looked up have as much of the mass as those looked up once, shared by
    all rows alike (Good, 1953).
    """
    total = lookups.sum()
    unseen = lookups.eq(1).sum() / total if total > 0 else torch.ones(())
    return (1 - unseen) * lookups * (len(lookups) / total.clamp_min(1)) + unseen


class GroupedGradientCovariance(AbstractEstimator):
    """1/2 sum over groups of outputs of tr(dW_g H_g dW_g'), an H of its own for each group.

    What is beside its diagonal counts less, by `DISCOUNT`.
    """

    moments = ("grouped_covariance",)
    version = 2

    def judge(self, part: Part) -> Losses:
        """Half of the groups' quadratic forms."""
        sums = part.statistics["grouped_covariance"]
        group, twice = group_of(sums["squares"].shape[-1])[part.rows], 2 * part.statistics.tokens
        total, by_sequence = 0.0, torch.zeros(())
        for index in group.unique().tolist():
            error = part.error[..., group == index, :]
            covariance: Tensor = sums["grouped_covariance"][..., index, :, :]
            total += quadratic_form(error, covariance, discount=DISCOUNT).sum().item()
            own = forms(error, error, _of_group(sums, index), discount=DISCOUNT)
            by_sequence = by_sequence + own
        return losses_of(max(0.0, total / twice), by_sequence / twice, part.statistics)


def _of_group(sums: Sums, index: int) -> Sums:
    of_group = {
        "diagonals": sums["diagonals"][..., index, :],
        "sketches": sums["sketches"][..., index, :, :],
    }
    return of_group | {name: sums[name] for name in ("lookup",) if name in sums}
