"""How far a covariance is drawn to its diagonal, lest few tokens mislead the quantizer.

In the covariance of a few thousand tokens there are directions that these tokens hardly took, and
others will. GPTQ moves its errors there. With r_ij the correlations of H,

    H* = (1 - lambda) H + lambda diag(H),    lambda = sum_{i != j} Var(r_ij) / sum_{i != j} r_ij^2,

is nearest to the true covariance in expectation (Schäfer and Strimmer, 2005, "A shrinkage approach
to large-scale covariance matrix estimation", the target of unequal variances). Tokens of a sequence
are alike, so the variance is that between sequences.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.sensitivity.moments.moment import Sums

ROWS_AT_ONCE = 1024
"""Of the covariance, which may be mapped from a file."""


def shrinkage(sums: Sums) -> Float[Tensor, "*experts"]:
    """lambda of each matrix, from the sums of a `Covariance`; 0 where one sequence is all there is.

    The squared size of one sequence's covariance comes from pairs of its sketches:
    E (z_k' z_l)^2 = |H_s|^2 for k != l.
    """
    covariance, diagonals, sketches = (
        sums[name] for name in ("covariance", "diagonals", "sketches")
    )
    if covariance.dim() == 2:
        return _of_one(covariance, diagonals, sketches)
    each = zip(covariance, diagonals.unbind(1), sketches.unbind(1), strict=True)
    return torch.stack([_of_one(*one) for one in each])


def _of_one(
    covariance: Float[Tensor, "in in"],
    diagonals: Float[Tensor, "sequences in"],
    sketches: Float[Tensor, "sequences sketches in"],
) -> Float[Tensor, ""]:
    scale = covariance.diagonal().clone()
    scale = torch.where(scale > 0, scale.rsqrt(), 0.0)
    diagonals, sketches = diagonals * scale.square(), sketches * scale
    if (count := int(diagonals.any(1).sum())) < 2:
        return torch.zeros(())
    one, other = torch.triu_indices(sketches.shape[1], sketches.shape[1], offset=1)
    squares = (sketches @ sketches.mT)[:, one, other].square().mean(1)
    apart = (squares - diagonals.square().sum(1)).sum()
    together = _off_diagonal(covariance, scale)
    variance = (apart - together / count) * (count / (count - 1))
    return (variance / together).clamp(0, 1) if together > 0 else torch.zeros(())


def _off_diagonal(
    covariance: Float[Tensor, "in in"], scale: Float[Tensor, "in"]
) -> Float[Tensor, ""]:
    """Sum of the squared correlations between different columns."""
    found = -scale.gt(0).sum().float()
    for start in range(0, len(scale), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        found += (covariance[rows] * scale[rows, None] * scale).square().sum()
    return found
