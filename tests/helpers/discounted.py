"""A covariance as losses read it."""

import torch
from torch import Tensor


def discounted(covariance: Tensor) -> Tensor:
    """With two thirds of what is beside the diagonal of the last two dimensions."""
    diagonal = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    return covariance * 2 / 3 + diagonal / 3
