"""Rows of a packed ternary weight, decoded: the very numbers that the reference decodes."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.formats.base3 import DIGITS
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.grid import read_grid
from bitplan.kernels.native.layout import LANES
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at, uint8_at
from bitplan.kernels.native.trits import FACTORS, bytes_of, code_of

_FACTORS = np.array(FACTORS)


@cache
def transposed() -> Any:
    """Decode COUNT rows from FIRST on, to an output [columns, COUNT]."""

    stamp = STAMP

    @compiled()
    def decode(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        rows, columns, count = job[fields.ROWS], job[fields.COLUMNS], job[fields.COUNT]
        group, width = job[fields.GROUP], bytes_of(columns)
        groups = (columns + group - 1) // group
        codes = uint8_at(job[fields.CODES], rows * width)
        output = float32_at(job[fields.OUTPUT], columns * count)
        grid = np.empty((2, groups * LANES), np.int32)
        scale = grid[0].view(np.float32)
        while True:
            start = fetch_add(address + 8 * fields.COUNTER, 1) * LANES
            if start >= count:
                break
            first = job[fields.FIRST] + start
            lanes = min(LANES, rows - first)
            read_grid(job, first, lanes, groups, grid)
            for column in range(columns):
                begin = first * width + column // DIGITS * lanes
                at, to = column // group * lanes, column * count + start
                _write(
                    codes[begin : begin + lanes],
                    _FACTORS[column % DIGITS],
                    scale[at : at + lanes],
                    output[to : to + lanes],
                )

    return decode


@part
def _write(codes, factor, scale, output):
    """One column of the rows that lie side by side."""
    for lane in range(len(output)):
        code = code_of(np.uint16(codes[lane]), factor)
        output[lane] = np.float32(np.int32(code - 1)) * scale[lane]


@cache
def chosen() -> Any:
    """Decode the COUNT rows whose int64 numbers are the inputs, to an output [COUNT, columns].

    A number that no row has is written to FIRST, and IS_MISSING set.
    """

    stamp = STAMP

    @compiled()
    def decode(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        rows, columns, count = job[fields.ROWS], job[fields.COLUMNS], job[fields.COUNT]
        group, width = job[fields.GROUP], bytes_of(columns)
        groups = (columns + group - 1) // group
        numbers = int64_at(job[fields.INPUTS], count)
        codes = uint8_at(job[fields.CODES], rows * width)
        output = float32_at(job[fields.OUTPUT], columns * count)
        grid = np.empty((2, groups * LANES), np.int32)
        scale = grid[0].view(np.float32)
        while True:
            place = fetch_add(address + 8 * fields.COUNTER, 1)
            if place >= count:
                break
            row = numbers[place]
            if row < 0 or row >= rows:
                job[fields.FIRST], job[fields.IS_MISSING] = row, 1
                continue
            first = row // LANES * LANES
            lane, lanes = row - first, min(LANES, rows - first)
            read_grid(job, first, lanes, groups, grid)
            for column in range(columns):
                byte = np.uint16(codes[first * width + column // DIGITS * lanes + lane])
                code = code_of(byte, _FACTORS[column % DIGITS])
                factor = scale[column // group * lanes + lane]
                output[place * columns + column] = np.float32(np.int32(code - 1)) * factor

    return decode
