"""What each byte of a scale means, where it is a byte without a step."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.formats import MATRIX_SCALE
from bitplan.formats.scales import read_scale
from bitplan.schema import Scheme


def byte_scales(tensors: dict[str, Tensor], scheme: Scheme) -> Float[Tensor, "256"] | None:
    """Float32 value of each byte; None for bfloat16 scales, and for bytes with steps."""
    kind = scheme.family.scale
    if kind == "bf16":
        return None
    if kind == "e8m0":
        return powers(0)
    every = torch.arange(256, dtype=torch.uint8)
    return read_scale(kind, every, tensors[MATRIX_SCALE].detach().view(1))


@cache
def powers(less: int) -> Float[Tensor, "256"]:
    """The powers of two that bytes stand for, over 2^less."""
    every = torch.arange(256, dtype=torch.uint8)
    return read_scale("e8m0", every, None) * 2.0**-less
