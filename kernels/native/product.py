"""Packed weight times a few vectors: every code is read once, at its true width."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.formats.bits import CELL
from bitplan.kernels.native import job as fields
from bitplan.kernels.native import spans as span_loop
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.grid import read_grid
from bitplan.kernels.native.layout import CELLS, LANES, SPAN
from bitplan.kernels.native.memory import (
    call_at,
    fetch_add,
    float32_at,
    int64_at,
    uint16_at,
)
from bitplan.kernels.native.tail import add_tail


@cache
def product() -> Any:
    """The compiled product."""

    stamp = STAMP

    @compiled(fastmath={"contract"})
    def multiply(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        rows, columns, count = job[fields.ROWS], job[fields.COLUMNS], job[fields.COUNT]
        bits, group = job[fields.BITS], job[fields.GROUP]
        cells = (columns + CELL - 1) // CELL
        whole, rest = cells // CELLS, cells % CELLS
        spans = whole + (1 if rest else 0)
        groups = (columns + group - 1) // group
        inputs = np.empty(count * spans * SPAN, np.float32)
        parts = np.empty(count * spans * 2, np.float32)
        sums = np.empty(count * groups, np.float32)
        _prepare(job, spans, groups, inputs, parts, sums)
        grid = np.empty((2, groups * LANES), np.int32)
        total = np.empty(LANES, np.float32)
        frame = np.empty(span_loop.ARGUMENTS, np.int64)
        frame[span_loop.SCALE] = grid.ctypes.data
        frame[span_loop.GROUP], frame[span_loop.GROUPS] = group, groups
        frame[span_loop.TOTAL] = total.ctypes.data
        argument = frame.ctypes.data
        while True:
            first = fetch_add(address + 8 * fields.COUNTER, 1) * LANES
            if first >= rows:
                break
            lanes = min(LANES, rows - first)
            frame[span_loop.ROWS] = lanes
            offset = read_grid(job, first, lanes, groups, grid)
            tail = job[fields.CODES] + 4 * rows * whole * bits + first * rest * bits
            for vector in range(count):
                add_offsets(total, offset, sums, vector * groups, groups, lanes)
                # Asked for in the loop: an array lives until it is named for the last time.
                frame[span_loop.INPUTS] = inputs.ctypes.data + 4 * vector * spans * SPAN
                frame[span_loop.PARTS] = parts.ctypes.data + 4 * vector * spans * 2
                frame[span_loop.WORDS] = job[fields.CODES] + 4 * first * whole * bits
                frame[span_loop.FIRST_SPAN], frame[span_loop.SPANS] = 0, whole
                call_at(job[fields.ADD_SPANS], argument)
                if rest:
                    at = vector * spans + whole
                    add_tail(
                        tail,
                        bits,
                        rest,
                        inputs[at * SPAN : (at + 1) * SPAN],
                        parts[2 * at : 2 * at + 2],
                        grid.ctypes.data,
                        group,
                        whole * SPAN,
                        total[:lanes],
                    )
                write(job, vector, first, lanes, total)

    return multiply


@part
def add_offsets(total, offset, sums, first, groups, lanes):
    """The offsets' share of the product."""
    for lane in range(lanes):
        total[lane] = np.float32(0)
    for group in range(groups):
        number, some = sums[first + group], offset[group * lanes : (group + 1) * lanes]
        for lane in range(lanes):
            total[lane] += some[lane] * number


@part
def _prepare(job, spans, groups, inputs, parts, sums):
    """Inputs as the product reads them, their sums of 16 columns, and their sums of groups."""
    columns, group, bits = job[fields.COLUMNS], job[fields.GROUP], job[fields.BITS]
    count, width = job[fields.COUNT], spans * SPAN
    tail = (columns + CELL - 1) // CELL // CELLS * SPAN
    whole = SPAN // bits
    factor = np.empty(SPAN, np.float32)
    for column in range(SPAN):
        place = column % whole if column < bits * whole else column - bits * whole
        shift = 0 if (place + 1) * bits == SPAN else place * bits
        factor[column] = np.float32(1) / np.float32(1 << shift)
    floats = float32_at(job[fields.INPUTS], count * columns)
    halves = uint16_at(job[fields.INPUTS], count * columns)
    row = np.empty(width, np.float32)
    bits_of_row = row.view(np.int32)
    for column in range(columns, width):
        row[column] = np.float32(0)
    for vector in range(count):
        start = vector * columns
        if job[fields.INPUT_IS_BFLOAT16]:
            for column in range(columns):
                bits_of_row[column] = np.int32(np.uint32(halves[start + column]) << np.uint32(16))
        else:
            for column in range(columns):
                row[column] = floats[start + column]
        for at in range(groups):
            sums[vector * groups + at] = np.float32(0)
        for half in range(2 * spans):
            total = np.float32(0)
            for column in range(span_loop.HALF_SPAN):
                total += row[half * span_loop.HALF_SPAN + column]
            parts[vector * 2 * spans + half] = total
            at = min(half * span_loop.HALF_SPAN // group, groups - 1)
            sums[vector * groups + at] += total
        for column in range(width):
            # Codes of the tail are shifted down, and lack no power of two.
            lacks = factor[column % SPAN] if column < tail else np.float32(1)
            inputs[vector * width + column] = row[column] * lacks


@part
def write(job, vector, first, lanes, total):
    """Sums of a block of rows, to the output in its dtype."""
    write_at(job, vector * job[fields.ROWS] + first, lanes, total)


@part
def write_at(job, start, count, numbers):
    """So many numbers, to the output in its dtype, from its number `start` on."""
    write_numbers(job[fields.OUTPUT], job[fields.OUTPUT_IS_BFLOAT16], start, count, numbers)


@part
def write_numbers(address, is_bfloat16, start, count, numbers):
    """So many float32 numbers, to an address in float32 or bfloat16, from `start` on."""
    if is_bfloat16:
        target = uint16_at(address + 2 * start, count)
        words = numbers.view(np.uint32)
        for at in range(count):
            word = words[at]
            # To the nearest, and the even one of two; what is no number stays none.
            rounded = word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))
            if numbers[at] != numbers[at]:
                rounded = word | np.uint32(0x400000)
            target[at] = np.uint16(rounded >> np.uint32(16))
    else:
        floats = float32_at(address + 4 * start, count)
        for at in range(count):
            floats[at] = numbers[at]
