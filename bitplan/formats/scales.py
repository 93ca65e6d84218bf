"""What a group's scale is stored in, and back.

bfloat16; `e8m0`, a byte that says which power of two from 2^-127 to 2^127 (OCP Microscaling Formats
v1.0, 5.4.1); or `e4m3`, a byte that is a floating-point number and multiplies one float32 of the
whole matrix (NVFP4). Bytes are kept as uint8: what they mean is decoded here.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.formats import minifloat
from bitplan.formats.codebook import FLOATS, Codebook, look_up

SCALE_DTYPE = torch.bfloat16
"""Of scales and offsets: the range of float32, and what torch's packed matmuls read."""

E8M0_BIAS = 127
E8M0_NAN = 255

MATRIX_SCALE = "matrix_scale"
"""Name of the tensor that a matrix has one number of: [..., 1, 1]."""

CHOICE_BITS = 2
"""Of a group's choice among four codebooks."""

MATRIX_SCALE_BITS = 16
"""Significant bits of a matrix's scale. Its product with a block's scale and a level is then exact
in float32, in whichever order a runtime multiplies them."""


def store_scale(kind: str, scale: Float[Tensor, "*groups"], matrix_scale: Tensor | None) -> Tensor:
    """A scale as it is stored: to the nearest there is, and the largest for one beyond it."""
    match kind:
        case "bf16":
            return scale.clamp_max(torch.finfo(SCALE_DTYPE).max).to(SCALE_DTYPE)
        case "e8m0":
            power = scale.log2().round_().add_(E8M0_BIAS)
            return power.clamp_(0, E8M0_NAN - 1).to(torch.uint8)
    assert matrix_scale is not None
    book = _e4m3()
    return book.codes_at(book.nearest(scale.div(matrix_scale).contiguous()))


def read_scale(kind: str, stored: Tensor, matrix_scale: Tensor | None) -> Float[Tensor, "*groups"]:
    """The scale that was stored, in float32."""
    match kind:
        case "bf16":
            return stored.float()
        case "e8m0":
            return look_up(_e8m0(), stored.int())
    assert matrix_scale is not None
    return _e4m3().values_of(stored) * matrix_scale.float()


def matrix_scale_for(reach: float, highest: float) -> float:
    """The scale of a matrix whose largest absolute weight is `reach`.

    That weight takes the highest level and the highest block scale, as in NVIDIA's recipe
    (Pretraining large language models with NVFP4, 2025, appendix B).
    """
    scale = max(reach / (highest * _e4m3().highest), torch.finfo(torch.float32).tiny)
    mantissa, exponent = torch.frexp(torch.tensor(scale, dtype=torch.float64))
    kept = 2.0**MATRIX_SCALE_BITS
    return torch.ldexp((mantissa * kept).round() / kept, exponent).item()


@cache
def _e8m0() -> Tensor:
    powers = [2.0 ** (code - E8M0_BIAS) for code in range(E8M0_NAN)]
    return torch.tensor([*powers, torch.nan])


@cache
def _e4m3() -> Codebook:
    """Those that are not negative."""
    table = minifloat.values(*FLOATS["fp8"])
    return Codebook.of(table, unused=tuple(range(len(table) // 2, len(table))), to_even=True)
