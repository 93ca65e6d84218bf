"""Evenly spaced codes, block floating point and ternary, on the CPU by compiled loops.

They are integers, and multiplied as such: no table is needed.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.kernels.codebook.scales import byte_scales, powers
from bitplan.kernels.native import weight
from bitplan.kernels.native.job import Terms
from bitplan.kernels.native.trits import TERNARY
from bitplan.schema import Scheme


def arrange(tensors: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From canonical tensors to those that the loops read, by the same names, each of one axis."""
    del columns
    return weight.arrange(tensors, _bits(scheme), _flip(scheme))


def restore(arranged: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From the loops' tensors to the canonical ones."""
    group, flip = scheme.group_size, _flip(scheme)
    return weight.restore(arranged, columns, _bits(scheme), group, flip)


def linear(
    inputs: Float[Tensor, "*tokens in"], arranged: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    return weight.multiply(inputs, arranged, **_numbers(arranged, scheme))


def few(
    arranged: dict[str, Tensor], scheme: Scheme, columns: int, count: int, dtype: torch.dtype
) -> Terms | None:
    """The product with a few vectors, for later: see `native.weight.few`."""
    return weight.few(arranged, columns, count, dtype, **_numbers(arranged, scheme))


def linear_back(
    gradient: Float[Tensor, "*tokens out"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
) -> Float[Tensor, "*tokens in"]:
    """Product with the weight itself: the gradient at the inputs of `linear`."""
    return weight.multiply_back(gradient, arranged, columns, **_numbers(arranged, scheme))


def lookup(
    tokens: Int[Tensor, "*tokens"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens hidden"]:
    """Rows of an embedding; only those asked for are decoded."""
    return weight.chosen_rows(tokens, arranged, columns, dtype, **_numbers(arranged, scheme))


def _numbers(arranged: dict[str, Tensor], scheme: Scheme) -> dict[str, Any]:
    return {
        "bits": _bits(scheme),
        "group": scheme.group_size,
        "scale_table": _scales(arranged, scheme),
    }


def _bits(scheme: Scheme) -> int:
    return TERNARY if scheme.family.is_ternary else int(scheme.bits)


def _flip(scheme: Scheme) -> int:
    """What makes codes of block floating point, which are signed integers, offset binary."""
    return 2 ** (int(scheme.bits) - 1) if scheme.format == "bfp" else 0


def _scales(arranged: dict[str, Tensor], scheme: Scheme) -> Float[Tensor, "256"] | None:
    """What each byte of a scale means, where it is a byte without a step."""
    if scheme.format == "bfp":
        return powers(int(scheme.bits) - 2)  # its codes are over 2^(bits - 2)
    return byte_scales(arranged, scheme)
