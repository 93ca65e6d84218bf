"""The quadratic form of each row of an error in a symmetric matrix, for half of its products."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

BLOCK = 192
"""Columns of the matrix that are multiplied at a time."""


def quadratic_form(
    error: Float[Tensor, "*experts rows in"],
    symmetric: Float[Tensor, "*experts in in"],
    *,
    discount: float = 0.0,
) -> Float64[Tensor, "*experts rows"]:
    """dW_o H dW_o' of every row o, from the upper half of H.

    With the columns in blocks, it is twice what the blocks above the diagonal give, and once what
    those on it do. `discount` is the share by which what is beside the diagonal counts less.

    >>> error, symmetric = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0], [1.0, 5.0]])
    >>> quadratic_form(error, symmetric)
    tensor([27.], dtype=torch.float64)
    >>> quadratic_form(error, symmetric, discount=0.5)
    tensor([25.], dtype=torch.float64)
    """
    total = torch.zeros(error.shape[:-1], dtype=torch.float64, device=error.device)
    columns = error.shape[-1]
    for start in range(0, columns, BLOCK):
        block = slice(start, min(start + BLOCK, columns))
        own = error[..., block]
        products = (own @ symmetric[..., block, block]).mul_(0.5)
        if start:
            add = products.addmm_ if products.dim() == 2 else products.baddbmm_
            add(error[..., :start], symmetric[..., :start, block])
        total += torch.linalg.vecdot(products, own)
    total.mul_(2)
    if discount:
        diagonal = symmetric.diagonal(dim1=-2, dim2=-1)
        own = (error.square() @ diagonal.unsqueeze(-1)).squeeze(-1)
        total += discount * (own - total)
    return total
