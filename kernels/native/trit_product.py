"""Packed ternary weight times a few vectors: every byte is read once, see `trits`.

Sums are of codes 0, 1 and 2, which stand for -1, 0 and 1: they begin with the group's sum of
inputs, negative, and its scale multiplies them. A byte that two groups share is read for both,
with inputs that are zero where its columns are the other's.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from bitplan.formats.base3 import DIGITS
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.grid import read_grid
from bitplan.kernels.native.layout import LANES
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at, uint8_at, uint16_at
from bitplan.kernels.native.product import write
from bitplan.kernels.native.trits import FACTORS, bytes_of, code_of

TOGETHER = 4
"""Bytes of a row whose products are summed up before the sum is stored."""

_A, _B, _C, _D, _E = FACTORS


@cache
def product() -> Any:
    """The compiled product."""

    stamp = STAMP

    @compiled(fastmath={"contract"})
    def multiply(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        rows, columns, count = job[fields.ROWS], job[fields.COLUMNS], job[fields.COUNT]
        group, width = job[fields.GROUP], bytes_of(columns)
        groups = (columns + group - 1) // group
        codes = uint8_at(job[fields.CODES], rows * width)
        # Of the bytes that a group reads, one at most is another's, too.
        inputs = np.empty((count, DIGITS * (width + groups)), np.float32)
        sums = np.empty((count, groups), np.float32)
        _prepare(job, groups, inputs, sums)
        grid = np.empty((2, groups * LANES), np.int32)
        scale = grid[0].view(np.float32)
        some = np.empty(LANES, np.float32)
        total = np.empty((count, LANES), np.float32)
        while True:
            first = fetch_add(address + 8 * fields.COUNTER, 1) * LANES
            if first >= rows:
                break
            lanes = min(LANES, rows - first)
            block = codes[first * width : (first + lanes) * width]
            read_grid(job, first, lanes, groups, grid)
            total[:] = np.float32(0)
            place = 0
            for at in range(groups):
                byte, end = at * group // DIGITS, bytes_of(min((at + 1) * group, columns))
                mine = block[byte * lanes : end * lanes]
                factor = scale[at * lanes : (at + 1) * lanes]
                for vector in range(count):
                    some[:] = -sums[vector, at]
                    _add_group(mine, inputs[vector, place:], some[:lanes])
                    for lane in range(lanes):
                        total[vector, lane] += factor[lane] * some[lane]
                place += (end - byte) * DIGITS
            for vector in range(count):
                write(job, vector, first, lanes, total[vector])

    return multiply


def _adder(together: int) -> Callable[..., None]:
    """What adds the products of so many bytes of some rows to the rows' sums."""

    @part
    def add(codes, x, total):
        lanes = len(total)
        for lane in range(lanes):
            # Two sums: a processor adds to several at a time.
            a, b = np.float32(0), np.float32(0)
            for at in range(together):
                byte, first = np.uint16(codes[at * lanes + lane]), at * DIGITS
                a += np.float32(code_of(byte, _A)) * x[first]
                b += np.float32(code_of(byte, _B)) * x[first + 1]
                a += np.float32(code_of(byte, _C)) * x[first + 2]
                b += np.float32(code_of(byte, _D)) * x[first + 3]
                a += np.float32(code_of(byte, _E)) * x[first + 4]
            total[lane] += a + b

    return add


_add_together, _add_byte = _adder(TOGETHER), _adder(1)


@part
def _add_group(codes, x, total):
    """Add a group's products with one vector to the rows' sums."""
    lanes = len(total)
    size = len(codes) // lanes
    whole = size // TOGETHER * TOGETHER
    for byte in range(0, whole, TOGETHER):
        some = codes[byte * lanes : (byte + TOGETHER) * lanes]
        _add_together(some, x[byte * DIGITS : (byte + TOGETHER) * DIGITS], total)
    for byte in range(whole, size):
        some = codes[byte * lanes : (byte + 1) * lanes]
        _add_byte(some, x[byte * DIGITS : (byte + 1) * DIGITS], total)


@part
def _prepare(job, groups, inputs, sums):
    """Inputs in the order in which bytes are read, zero where there is none, and groups' sums."""
    columns, group, count = job[fields.COLUMNS], job[fields.GROUP], job[fields.COUNT]
    floats = float32_at(job[fields.INPUTS], count * columns)
    halves = uint16_at(job[fields.INPUTS], count * columns)
    row = np.empty(columns, np.float32)
    bits = row.view(np.int32)
    for vector in range(count):
        start = vector * columns
        if job[fields.INPUT_IS_BFLOAT16]:
            for column in range(columns):
                bits[column] = np.int32(np.uint32(halves[start + column]) << np.uint32(16))
        else:
            for column in range(columns):
                row[column] = floats[start + column]
        place = 0
        for at in range(groups):
            begin, end = at * group, min((at + 1) * group, columns)
            total = np.float32(0)
            for column in range(begin // DIGITS * DIGITS, bytes_of(end) * DIGITS):
                number = row[column] if begin <= column < end else np.float32(0)
                inputs[vector, place] = number
                total += number
                place += 1
            sums[vector, at] = total
