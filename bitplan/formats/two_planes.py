"""A weight that is the sum of two planes, each with a scale for every group: a1 * T1 + a2 * T2.

`ternary2`, planes of -1, 0 and 1: PTQTP (Xiao et al., 2025). `binary2`, planes of 0 and 1: the
flexible dual binarization of DB-LLM (Chen et al., 2024).
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

VALUES = {"binary2": (0.0, 1.0), "ternary2": (-1.0, 0.0, 1.0)}
"""Of one plane, by its digit."""

SECOND = "second"
"""Name of the tensor of the second plane's scales; those of the first are `scale`."""


def split(
    format: str, codes: UInt8[Tensor, "*rows columns"]
) -> tuple[UInt8[Tensor, "*rows columns"], UInt8[Tensor, "*rows columns"]]:
    """The digit of each plane.

    >>> [digits.tolist() for digits in split("ternary2", torch.tensor([[7, 3]]))]
    [[[1, 0]], [[2, 1]]]
    """
    base = len(VALUES[format])
    return codes % base, codes.div(base, rounding_mode="floor")


def join(
    format: str, first: UInt8[Tensor, "*rows columns"], second: UInt8[Tensor, "*rows columns"]
) -> UInt8[Tensor, "*rows columns"]:
    """One code for both digits."""
    return first + second * len(VALUES[format])


def units(format: str) -> Float[Tensor, "2 codes"]:
    """What each code is in either plane.

    >>> units("binary2").tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """
    values = torch.tensor(VALUES[format])
    return torch.stack((values.repeat(len(values)), values.repeat_interleave(len(values))))
