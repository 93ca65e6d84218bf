"""Weights of a codebook, decoded and multiplied: the truth, on any device."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.formats import MATRIX_SCALE, decode_codebook
from bitplan.runtimes import ROWS_AT_ONCE
from bitplan.schema import Scheme


def linear(
    inputs: Float[Tensor, "*tokens in"], tensors: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    parts = []
    for start in range(0, len(tensors["codes"]), ROWS_AT_ONCE):
        rows = {
            name: tensor if name == MATRIX_SCALE else tensor[start : start + ROWS_AT_ONCE]
            for name, tensor in tensors.items()
        }
        weight = decode_codebook(scheme, inputs.shape[-1], rows, inputs.dtype)
        parts.append(torch.nn.functional.linear(inputs, weight))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def lookup(
    tokens: Int[Tensor, "*tokens"],
    tensors: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens hidden"]:
    """Rows of an embedding; only those asked for are decoded."""
    # Not by indexing: that takes a negative token for a row from the end.
    rows = {
        name: tensor if name == MATRIX_SCALE else tensor.index_select(0, tokens.flatten())
        for name, tensor in tensors.items()
    }
    return decode_codebook(scheme, columns, rows, dtype).reshape(*tokens.shape, columns)
