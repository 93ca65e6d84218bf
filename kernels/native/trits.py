"""Ternary codes in memory: five to a byte as `formats.base3` has them, 64 rows side by side.

Bytes of a block of rows lie as its scales do (`arrange_grid`), so that a vector instruction works
on as many rows as it has lanes. Code k of a byte, counted from 0, is the part of byte / 3^(k + 1)
that is behind the point, times 3, rounded down. In 16 bits that is a product whose top is lost,
and another of which only the top is kept: no division, and no table.
"""

import numpy as np

from bitplan.formats.base3 import DIGITS
from bitplan.kernels.native.compiled import part

TERNARY = 0
"""What stands for the bits of a code where codes are ternary: they have no whole number of them."""

_WHOLE = 1 << 16

# 1 / 3^(k + 1) rounded up: what 242 of them are too much is less than 1 / 243, so no code changes.
FACTORS = tuple(np.uint16(-(-_WHOLE // 3 ** (code + 1))) for code in range(DIGITS))
"""By the code's place in its byte, what `code_of` takes."""


@part
def code_of(byte, factor):
    """The code of a byte, a uint16, at the place that a factor stands for: 0, 1 or 2."""
    behind = np.uint16(byte * factor)
    return np.int32(np.uint16(np.uint32(np.uint32(behind) * np.uint32(3)) >> np.uint32(16)))


@part
def bytes_of(columns):
    """Of a row."""
    return (columns + DIGITS - 1) // DIGITS
