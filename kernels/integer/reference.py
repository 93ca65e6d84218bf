"""Integer weights, decoded and multiplied: the truth, on any device."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.formats import decode_integer
from bitplan.runtimes import ROWS_AT_ONCE
from bitplan.schema import Scheme


def linear(
    inputs: Float[Tensor, "*tokens in"], tensors: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    columns, rows = inputs.shape[-1], len(tensors["codes"])
    if rows <= ROWS_AT_ONCE:
        return _part(inputs, tensors, scheme, columns)
    parts = [
        _part(inputs, {k: t[i : i + ROWS_AT_ONCE] for k, t in tensors.items()}, scheme, columns)
        for i in range(0, rows, ROWS_AT_ONCE)
    ]
    return torch.cat(parts, dim=-1)


def _part(inputs: Tensor, tensors: dict[str, Tensor], scheme: Scheme, columns: int) -> Tensor:
    weight = decode_integer(scheme, columns, tensors, inputs.dtype)
    return torch.nn.functional.linear(inputs, weight)


def lookup(
    tokens: Int[Tensor, "*tokens"],
    tensors: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens hidden"]:
    """Rows of an embedding; only those asked for are decoded."""
    # Not by indexing: that takes a negative token for a row from the end.
    rows = {name: tensor.index_select(0, tokens.flatten()) for name, tensor in tensors.items()}
    return decode_integer(scheme, columns, rows, dtype).reshape(*tokens.shape, columns)
