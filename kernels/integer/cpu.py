"""Integer weights on the CPU by compiled loops, in every width and shape.

`arrange` turns the canonical tensors into what the loops read, in as many bytes; `restore` turns
them back, exactly. One arrangement serves products and lookups.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.kernels.native import weight
from bitplan.kernels.native.job import Job
from bitplan.schema import Scheme


def arrange(tensors: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From canonical tensors to those that the loops read, by the same names, each of one axis."""
    del columns
    return weight.arrange(tensors, int(scheme.bits))


def restore(arranged: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From the loops' tensors to the canonical ones."""
    return weight.restore(arranged, columns, int(scheme.bits), scheme.group_size)


def linear(
    inputs: Float[Tensor, "*tokens in"], arranged: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    return weight.multiply(inputs, arranged, bits=int(scheme.bits), group=scheme.group_size)


def few(
    arranged: dict[str, Tensor], scheme: Scheme, columns: int, count: int, dtype: torch.dtype
) -> Job | None:
    """The job of a product with a few vectors: see `native.weight.few`."""
    bits, group = int(scheme.bits), scheme.group_size
    return weight.few(arranged, columns, count, dtype, bits=bits, group=group)


def linear_back(
    gradient: Float[Tensor, "*tokens out"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
) -> Float[Tensor, "*tokens in"]:
    """Product with the weight itself: the gradient at the inputs of `linear`."""
    bits, group = int(scheme.bits), scheme.group_size
    return weight.multiply_back(gradient, arranged, columns, bits=bits, group=group)


def lookup(
    tokens: Int[Tensor, "*tokens"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens hidden"]:
    """Rows of an embedding; only those asked for are decoded."""
    bits, group = int(scheme.bits), scheme.group_size
    return weight.chosen_rows(tokens, arranged, columns, dtype, bits=bits, group=group)
