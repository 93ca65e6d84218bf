"""Weights of two planes, decoded and multiplied: the truth, on any device."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.formats import decode_planes
from bitplan.kernels import decoded
from bitplan.schema import Scheme


def linear(
    inputs: Float[Tensor, "*tokens in"], tensors: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    return decoded.linear(inputs, tensors, scheme, decode_planes)


def linear_back(
    gradient: Float[Tensor, "*tokens out"],
    tensors: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
) -> Float[Tensor, "*tokens in"]:
    """Product with the weight itself: the gradient at the inputs of `linear`."""
    return decoded.linear_back(gradient, tensors, scheme, columns, decode_planes)


def lookup(
    tokens: Int[Tensor, "*tokens"],
    tensors: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens hidden"]:
    """Rows of an embedding; only those asked for are decoded."""
    return decoded.lookup(tokens, tensors, scheme, columns, dtype, decode_planes)
