"""Integer weights on the CPU by products of bytes, on processors that have them.

The quickest there is here, and as exact as float32; for whole spans of 32 columns. See
`bitplan.kernels.native.dot_product`. `arrange` turns the canonical tensors into what the loops
read, in as many bytes; `restore` turns them back, exactly.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.kernels.native import dot, layout, vectors, weight
from bitplan.kernels.native.job import Job
from bitplan.schema import Scheme


def unfit(scheme: Scheme, rows: int, columns: int) -> str | None:
    """Why a weight cannot be multiplied so; None: it can."""
    if dot.instructions() is None:
        return "This processor has no products of bytes"
    if columns % layout.SPAN or rows % vectors.ROWS:
        return f"Products of bytes take columns in {layout.SPAN}s and rows in {vectors.ROWS}s"
    if scheme.group_size and scheme.group_size % layout.SPAN:
        return f"Products of bytes take groups in {layout.SPAN}s"
    return None


def arrange(tensors: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From canonical tensors to those that the loops read, by the same names, each of one axis."""
    del columns
    return weight.arrange(tensors, int(scheme.bits), quads=True)


def restore(arranged: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From the loops' tensors to the canonical ones."""
    return weight.restore(arranged, columns, int(scheme.bits), scheme.group_size, quads=True)


def linear(
    inputs: Float[Tensor, "*tokens in"], arranged: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    bits, group = int(scheme.bits), scheme.group_size
    return weight.multiply(inputs, arranged, bits=bits, group=group, quads=True)


def few(
    arranged: dict[str, Tensor], scheme: Scheme, columns: int, count: int, dtype: torch.dtype
) -> Job | None:
    """The job of a product with a few vectors: see `native.weight.few`."""
    bits, group = int(scheme.bits), scheme.group_size
    return weight.few(arranged, columns, count, dtype, bits=bits, group=group, quads=True)


def linear_back(
    gradient: Float[Tensor, "*tokens out"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
) -> Float[Tensor, "*tokens in"]:
    """Product with the weight itself: the gradient at the inputs of `linear`."""
    bits, group = int(scheme.bits), scheme.group_size
    return weight.multiply_back(gradient, arranged, columns, bits=bits, group=group, quads=True)


def lookup(
    tokens: Int[Tensor, "*tokens"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens hidden"]:
    """Rows of an embedding; only those asked for are decoded."""
    bits, group = int(scheme.bits), scheme.group_size
    return weight.chosen_rows(tokens, arranged, columns, dtype, bits=bits, group=group, quads=True)
