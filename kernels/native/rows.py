"""Rows of a packed weight, decoded: the very numbers that the reference decodes, in float32."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.formats.bits import CELL
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.grid import read_grid
from bitplan.kernels.native.layout import CELLS, LANES, SPAN, last_words, read_words, zero_of
from bitplan.kernels.native.memory import fetch_add, float32_at, int32_at, int64_at, uint8_at
from bitplan.kernels.native.quads import read_quads


@cache
def transposed() -> Any:
    """Decode COUNT rows from FIRST on, to an output [columns, COUNT]."""

    stamp = STAMP

    @compiled()
    def decode(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        rows, columns, bits = job[fields.ROWS], job[fields.COLUMNS], job[fields.BITS]
        count, group = job[fields.COUNT], job[fields.GROUP]
        output = float32_at(job[fields.OUTPUT], columns * count)
        cells = (columns + CELL - 1) // CELL
        whole, rest = cells // CELLS, cells % CELLS
        groups = (columns + group - 1) // group
        words = int32_at(job[fields.CODES], rows * whole * bits)
        tails = uint8_at(job[fields.CODES], rows * cells * bits)
        places = SPAN // bits
        spare = SPAN - places * bits
        grid = np.empty((2, groups * LANES), np.int32)
        scale = grid[0].view(np.float32)
        last = np.empty(bits * LANES, np.int32)
        more = np.empty(LANES, np.int32)
        while True:
            start = fetch_add(address + 8 * fields.COUNTER, 1) * LANES
            if start >= count:
                break
            first = job[fields.FIRST] + start
            lanes = min(LANES, rows - first)
            offset = read_grid(job, first, lanes, groups, grid)
            if rest:
                tail = 4 * rows * whole * bits + first * rest * bits
                last_words(tails, tail, lanes, bits, rest, last)
            for span in range(whole + (1 if rest else 0)):
                at = (first * whole + span * lanes) * bits
                some = words[at : at + bits * lanes] if span < whole else last
                for lane in range(lanes):
                    more[lane] = 0
                for word in range(bits + 1):
                    value = some[word * lanes : (word + 1) * lanes] if word < bits else more
                    if spare and word < bits:
                        for lane in range(lanes):
                            top = (value[lane] >> (SPAN - spare)) & ((1 << spare) - 1)
                            more[lane] |= np.int32(top << (spare * word))
                    for place in range(places if word < bits else spare):
                        column = span * SPAN + word * places + place
                        if column < columns:
                            at = column // group * lanes
                            _write(
                                value,
                                place * bits,
                                bits,
                                scale[at : at + lanes],
                                offset[at : at + lanes],
                                output[column * count + start : column * count + start + lanes],
                            )

    return decode


@part
def _write(words, shift, bits, scale, offset, output):
    """One column of the rows that lie side by side."""
    mask, zero = (1 << bits) - 1, zero_of(bits)
    for lane in range(len(output)):
        code = np.int32((words[lane] >> shift) & mask) - zero
        output[lane] = np.float32(np.int32(code)) * scale[lane] + offset[lane]


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
        rows, columns, bits = job[fields.ROWS], job[fields.COLUMNS], job[fields.BITS]
        count, group = job[fields.COUNT], job[fields.GROUP]
        numbers = int64_at(job[fields.INPUTS], count)
        output = float32_at(job[fields.OUTPUT], columns * count)
        cells = (columns + CELL - 1) // CELL
        whole, rest = cells // CELLS, cells % CELLS
        groups = (columns + group - 1) // group
        words = int32_at(job[fields.CODES], rows * whole * bits)
        tails = uint8_at(job[fields.CODES], rows * cells * bits)
        zero = zero_of(bits)
        grid = np.empty((2, groups * LANES), np.int32)
        scale = grid[0].view(np.float32)
        last = np.empty(bits * LANES, np.int32)
        codes = np.empty(SPAN, np.int64)
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
            offset = read_grid(job, first, lanes, groups, grid)
            if rest:
                tail = 4 * rows * whole * bits + first * rest * bits
                last_words(tails, tail, lanes, bits, rest, last)
            for span in range(whole + (1 if rest else 0)):
                at = (first * whole + span * lanes) * bits
                if span < whole:
                    if job[fields.QUADS]:
                        read_quads(words, at, lanes, bits, lane, codes)
                    else:
                        read_words(words, at, lanes, bits, lane, 0, codes)
                else:
                    read_words(last, 0, lanes, bits, lane, 0, codes)
                for column in range(span * SPAN, min((span + 1) * SPAN, columns)):
                    at = column // group * lanes + lane
                    code = codes[column - span * SPAN]
                    number = np.float32(code - zero) * scale[at] + offset[at]
                    output[place * columns + column] = number

    return decode
