"""Ternary codes, five to a byte: 3^5 = 243 fit where eight bits hold 256.

A row is padded to whole bytes; code j of a byte is its j-th digit in base 3, the lowest first.
"""

from functools import cache

import torch
from jaxtyping import UInt8
from torch import Tensor

DIGITS = 5


def pack(codes: UInt8[Tensor, "*rows columns"]) -> UInt8[Tensor, "*rows bytes"]:
    """Pack codes of 0, 1 and 2. Padding codes are zero.

    >>> pack(torch.tensor([[1, 2, 0, 0, 2, 1]], dtype=torch.uint8)).tolist()
    [[169, 1]]
    """
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % DIGITS))
    digits = padded.unflatten(-1, (-1, DIGITS))
    packed = digits[..., -1].clone()
    for digit in range(DIGITS - 2, -1, -1):
        packed = packed.mul_(3).add_(digits[..., digit])
    return packed


def unpack(packed: UInt8[Tensor, "*rows bytes"], columns: int) -> UInt8[Tensor, "*rows columns"]:
    """The codes that `pack` packed.

    >>> unpack(torch.tensor([[169, 1]], dtype=torch.uint8), 6).tolist()
    [[1, 2, 0, 0, 2, 1]]
    """
    digits = _digits().to(packed.device).index_select(0, packed.flatten().int())
    return digits.view(*packed.shape, DIGITS).flatten(-2)[..., :columns]


@cache
def _digits() -> UInt8[Tensor, "256 5"]:
    """The digits of each byte; those of bytes that no codes make are never read."""
    powers = torch.tensor([3**digit for digit in range(DIGITS)])
    return (torch.arange(256)[:, None] // powers % 3).to(torch.uint8)
