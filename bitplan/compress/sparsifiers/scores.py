"""What it costs to make a weight zero, by the published criteria; [in, rows], up to a factor."""

from jaxtyping import Float
from torch import Tensor


def magnitude(weight: Float[Tensor, "in rows"]) -> Float[Tensor, "in rows"]:
    """The square of the weight: no data."""
    return weight.square()


def wanda(
    weight: Float[Tensor, "in rows"], importance: Float[Tensor, "in"]
) -> Float[Tensor, "in rows"]:
    """The loss if nothing else moves (Sun et al., 2024, "Wanda", squared): w^2 H_jj."""
    return weight.square().mul_(importance.unsqueeze(1))


def saliency(
    weight: Float[Tensor, "in rows"], factor_diagonal: Float[Tensor, "in"]
) -> Float[Tensor, "in rows"]:
    """The loss if the columns still to come make up for it: w^2 / U_jj^2.

    U is the upper Cholesky factor of the inverse of H (Frantar and Alistarh, 2023, "SparseGPT",
    algorithm 1).
    """
    return weight.div(factor_diagonal.unsqueeze(1)).square_()
