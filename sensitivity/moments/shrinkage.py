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
    scale = sums["covariance"].diagonal(dim1=-2, dim2=-1).clone()
    scale = torch.where(scale > 0, scale.rsqrt(), 0.0)
    diagonals = sums["diagonals"] * scale.square()
    seen = diagonals.flatten(1).any(1)
    if (count := int(seen.sum())) < 2:
        return torch.zeros(scale.shape[:-1])
    sketches = sums["sketches"] * scale.unsqueeze(-2)
    one, other = torch.triu_indices(sketches.shape[-2], sketches.shape[-2], offset=1)
    squares = (sketches @ sketches.mT)[..., one, other].square().mean(-1)
    apart = (squares - diagonals.square().sum(-1)).sum(0)
    together = _off_diagonal(sums["covariance"], scale)
    variance = (apart - together / count) * (count / (count - 1))
    return torch.where(together > 0, variance / together, 0.0).clamp(0, 1)


def _off_diagonal(
    covariance: Float[Tensor, "*experts in in"], scale: Float[Tensor, "*experts in"]
) -> Float[Tensor, "*experts"]:
    """Sum of the squared correlations between different columns."""
    found = -scale.gt(0).sum(-1).float()
    for start in range(0, scale.shape[-1], ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        part = covariance[..., rows, :] * scale[..., rows].unsqueeze(-1) * scale.unsqueeze(-2)
        found += part.square().sum((-2, -1))
    return found.clamp_min(0)
