"""Numbers in float32 or bfloat16 at an address, for compiled loops."""

import struct
from array import array
from collections.abc import Mapping, Sequence

import numpy as np

from bitplan.kernels.native.compiled import part
from bitplan.kernels.native.memory import float32_at, uint16_at

COUNTER = 0
"""The first field of a job whose fields are its own."""


def fields_of(count: int, values: Mapping[int, int]) -> array:
    """The fields of a job; nought is what is not given."""
    fields = array("q", bytes(8 * count))
    for field, value in values.items():
        fields[field] = value
    return fields


def bits_of(number: float) -> int:
    """A float32 as a field holds it."""
    return struct.unpack("<I", struct.pack("<f", number))[0]


@part
def number_in(address, field):
    """The float32 that a field holds."""
    return float32_at(address + 8 * field, 1)[0]


@part
def read(address, is_half, start, numbers):
    """Numbers in float32, from the one at `start` on."""
    if is_half:
        halves = uint16_at(address + 2 * start, len(numbers))
        words = numbers.view(np.uint32)
        for at in range(len(numbers)):
            words[at] = np.uint32(halves[at]) << np.uint32(16)
    else:
        floats = float32_at(address + 4 * start, len(numbers))
        for at in range(len(numbers)):
            numbers[at] = floats[at]


@part
def add(address, is_half, start, numbers):
    """Add numbers at an address to others; where it is 0 there are none."""
    if not address:
        return
    more = np.empty_like(numbers)
    read(address, is_half, start, more)
    for at in range(len(numbers)):
        numbers[at] += more[at]


@part
def exponential(numbers):
    """Each number's exponential in its place, to 2 in 10^7; of less than -87 nearly nothing.

    2^n times a polynomial for the rest, at most half, which compilers turn into vectors.
    """
    power, words = np.empty(len(numbers), np.int32), numbers.view(np.int32)
    for at in range(len(numbers)):
        doublings = max(np.float32(-126), min(np.float32(126), numbers[at] * np.float32(LOG2_E)))
        whole = np.rint(doublings)
        rest = doublings - whole
        power[at] = np.int32(whole) << np.int32(23)
        total = np.float32(TERMS[0])
        for term in TERMS[1:]:
            total = total * rest + np.float32(term)
        numbers[at] = total
    for at in range(len(numbers)):
        words[at] += power[at]


LOG2_E = 1.4426950408889634
TERMS: Sequence[float] = (
    1.5252734e-05,
    1.5403531e-04,
    1.3333558e-03,
    9.6181291e-03,
    5.5504109e-02,
    2.4022651e-01,
    6.9314718e-01,
    1.0,
)
"""ln(2)^n / n!, of 2^x for x from -1/2 to 1/2, the highest power first."""
