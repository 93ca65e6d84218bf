"""What a quantizer reads of H, the covariance of a weight's inputs, worked out once a weight."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.memory import release

DAMPING = 0.01
"""Share of the mean diagonal that is added to H's diagonal; ten times more until H factors."""

SMALL = 256
"""Rows of a triangle that is inverted at once."""


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """H, up to a factor, for all schemes and all rows of one weight.

    `shrinkage` is how far it is drawn to its diagonal before its inverse is taken, from 0 to 1, and
    `damping` the share of its mean diagonal that is added to it.
    """

    covariance: Float[Tensor, "in in"]
    shrinkage: float = 0.0
    damping: float = DAMPING

    @cached_property
    def importance(self) -> Float[Tensor, "in"]:
        """How much an error in each column matters: H's diagonal."""
        return self.covariance.diagonal().clone()

    @cached_property
    def matrix(self) -> Float[Tensor, "in in"]:
        """The shrunk and damped H, of mean diagonal 1 without the damping."""
        mean = _mean(self.covariance)
        return _drawn(self.covariance.clone(), mean, self.shrinkage, self.damping)

    @cached_property
    def inverse_factor(self) -> Float[Tensor, "in in"]:
        """Upper Cholesky factor of the inverse of the shrunk and damped H."""
        return inverse_factor(self.covariance, self.shrinkage, self.damping)


def inverse_factor(
    covariance: Float[Tensor, "in in"], shrinkage: float = 0.0, damping: float = DAMPING
) -> Float[Tensor, "in in"]:
    """Upper Cholesky factor of the inverse of the shrunk, damped H; takes two copies of it.

    With H = U U', U upper, the factor is U^-1. U is the lower factor of H with rows and columns in
    reverse, reversed again, so one Cholesky factorization and one triangular inverse do, in place.
    """
    mean = _mean(covariance)
    while True:
        reverse = covariance.flip((0, 1))
        release([covariance])  # where it is mapped from a file, its pages are not needed beside it
        _drawn(reverse, mean, shrinkage, damping)
        # LAPACK works down columns: it writes over its input where that is laid out so.
        lower, failed = reverse.mT, torch.empty((), dtype=torch.int32, device=reverse.device)
        torch.linalg.cholesky_ex(lower, out=(lower, failed))
        if not failed:
            _invert(lower)
            if lower.diagonal().isfinite().all():
                return lower.flip((0, 1))
        damping = max(10 * damping, DAMPING)


def _mean(covariance: Float[Tensor, "in in"]) -> Float[Tensor, ""]:
    return covariance.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)


def _drawn(
    matrix: Float[Tensor, "in in"], mean: Float[Tensor, ""], shrinkage: float, damping: float
) -> Float[Tensor, "in in"]:
    """In place: over the mean, drawn to its diagonal, and that damped."""
    diagonal = matrix.div_(mean).diagonal().add(damping)
    matrix.mul_(1 - shrinkage).diagonal().copy_(diagonal)
    return matrix


def _invert(lower: Float[Tensor, "n n"]) -> None:
    """Invert a lower triangle in place: of its halves, then of what is left of the lower one."""
    size = len(lower)
    if size <= SMALL:
        identity = torch.eye(size, dtype=lower.dtype, device=lower.device)
        lower.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))
        return
    half = size // 2
    first, last, corner = lower[:half, :half], lower[half:, half:], lower[half:, :half]
    _invert(first)
    _invert(last)
    corner.copy_((last @ corner).neg_() @ first)
