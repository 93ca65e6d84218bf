"""Rows of keys or values rounded to the nearest codes, into a cache: see `formats.cached`."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.formats.bits import CELL
from bitplan.kernels.native import floats
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.memory import fetch_add, int64_at, uint8_at
from bitplan.kernels.native.product import write_numbers

FIELDS = 11
(
    COUNTER,
    ROWS,
    WIDTH,
    INPUTS,
    IS_HALF,
    BITS,
    GROUP,
    CODES,  # of the first row; rows lie one after another
    SCALE,  # bfloat16, a number for each group of each row
    OFFSET,  # or 0: the grid is symmetric
    CODE_BYTES,
) = range(FIELDS)


@cache
def function() -> Any:
    """A row after another. No operation is fused with another: codes are to be torch's own."""

    stamp = STAMP

    @compiled()
    def keep(address):
        _ = stamp
        job = int64_at(address, FIELDS)
        width, group, bits = job[WIDTH], job[GROUP], job[BITS]
        groups = (width + group - 1) // group
        row = np.empty(width, np.float32)
        codes = np.zeros((width + CELL - 1) // CELL * CELL, np.int64)
        scale, offset = np.empty(groups, np.float32), np.empty(groups, np.float32)
        while True:
            at = fetch_add(address, 1)
            if at >= job[ROWS]:
                break
            floats.read(job[INPUTS], job[IS_HALF], at * width, row)
            for number in range(groups):
                some = row[number * group : min((number + 1) * group, width)]
                scale[number], offset[number] = _grid(some, bits, job[OFFSET] == 0)
                first = number * group
                half = 1 << (bits - 1)
                for column in range(len(some)):
                    whole = np.rint((some[column] - offset[number]) / scale[number])
                    kept = max(np.float32(-half), min(np.float32(half - 1), whole))
                    codes[first + column] = np.int64(kept) + half
            write_numbers(job[SCALE], True, at * groups, groups, scale)
            if job[OFFSET]:
                write_numbers(job[OFFSET], True, at * groups, groups, offset)
            _pack(codes, bits, job[CODES] + at * job[CODE_BYTES])

    return keep


@part
def _grid(numbers, bits, is_symmetric):
    """Scale and offset of a group as they are stored: see `formats.cached`."""
    low, high = numbers[0], numbers[0]
    for number in numbers:
        low, high = min(low, number), max(high, number)
    half = np.float32(1 << (bits - 1))
    if is_symmetric:
        high = max(-low, high)
        low = -high
    scale = (high - low) * np.float32(1.0 / ((1 << bits) - 1))
    offset = (high + low) / np.float32(2) + scale / np.float32(2)
    if is_symmetric:
        offset = np.float32(0)
    stored = _as_stored(offset)
    moved = abs(stored - offset)
    scale += max(moved - scale / np.float32(2), np.float32(0)) / (half - np.float32(0.5))
    scale = _as_stored(scale)
    return (scale if scale > 0 else np.float32(1)), stored


@part
def _as_stored(number):
    """Rounded to bfloat16."""
    one, half = np.empty(1, np.float32), np.empty(1, np.uint16)
    one[0] = number
    write_numbers(half.ctypes.data, True, 0, 1, one)
    floats.read(half.ctypes.data, True, 0, one)
    return one[0] + np.float32(0) * np.float32(len(half))


@part
def _pack(codes, bits, place):
    """Codes at their true width: see `formats.bits`."""
    packed = uint8_at(place, len(codes) // CELL * bits)
    for cell in range(len(codes) // CELL):
        word = np.uint64(0)
        for at in range(CELL):
            word |= np.uint64(codes[cell * CELL + at]) << np.uint64(at * bits)
        for at in range(bits):
            packed[cell * bits + at] = np.uint8((word >> np.uint64(8 * at)) & np.uint64(255))
