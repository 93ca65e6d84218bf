"""Packed weight times a few vectors by products of bytes: sums of codes are exact.

Of every 32 inputs the largest gives a step, and each is written as a whole number of steps, in two
or three digits of base 128. Codes times digits are summed as integers, as processors are quickest
at, and nothing is rounded before the digits are put together, once for 32 columns. Two digits hold
what bfloat16 holds and more; three are as exact as a product in float32. Which is by DIGITS.
"""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.dot import BASE_BITS, ROWS, add_span
from bitplan.kernels.native.grid import prefetch_grid, read_grid
from bitplan.kernels.native.layout import LANES, SPAN
from bitplan.kernels.native.memory import (
    call_at,
    fetch_add,
    float32_at,
    int64_at,
    uint16_at,
)
from bitplan.kernels.native.product import add_offsets, write

ARGUMENTS = 10
(WORDS, SPANS, INPUTS, STARTS, STEPS, SCALE, GROUP, LANES_AT, TOTAL, UNUSED) = range(ARGUMENTS)


@cache
def add_spans(bits: int, digits: int) -> Any:
    """What adds all spans' products to the totals of a block's rows, compiled for a width."""

    stamp = STAMP

    @compiled()
    def add(address):
        _ = stamp
        frame = int64_at(address, ARGUMENTS)
        spans, lanes, group = frame[SPANS], frame[LANES_AT], frame[GROUP]
        steps = float32_at(frame[STEPS], spans)
        for span in range(spans):
            words = frame[WORDS] + 4 * span * bits * lanes
            inputs = frame[INPUTS] + span * digits * SPAN
            starts = frame[STARTS] + 4 * span * digits
            scale = frame[SCALE] + 4 * (span * SPAN // group * lanes)
            for row in range(0, lanes, ROWS):
                at = 4 * row
                add_span(
                    words + at,
                    4 * lanes,
                    inputs,
                    starts,
                    scale + at,
                    steps[span],
                    frame[TOTAL] + at,
                    bits,
                    digits,
                )

    return add


@cache
def product() -> Any:
    """The compiled product. Columns come in spans, rows in sixteens, groups in whole spans."""

    stamp = STAMP

    @compiled()
    def multiply(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        rows, columns, count = job[fields.ROWS], job[fields.COLUMNS], job[fields.COUNT]
        bits, group, digits = job[fields.BITS], job[fields.GROUP], job[fields.DIGITS]
        spans, groups = columns // SPAN, (columns + group - 1) // group
        inputs = np.empty(count * columns * digits, np.int8)
        starts = np.empty(count * spans * digits, np.int32)
        steps = np.empty(count * spans, np.float32)
        sums = np.empty(count * groups, np.float32)
        _write_digits(job, groups, inputs, starts, steps, sums)
        grid = np.empty((2, groups * LANES), np.int32)
        total = np.empty(LANES, np.float32)
        frame = np.empty(ARGUMENTS, np.int64)
        frame[SPANS], frame[GROUP] = spans, group
        frame[SCALE], frame[TOTAL] = grid.ctypes.data, total.ctypes.data
        argument = frame.ctypes.data
        while True:
            first = fetch_add(address + 8 * fields.COUNTER, 1) * LANES
            if first >= rows:
                break
            lanes = min(LANES, rows - first)
            frame[LANES_AT] = lanes
            frame[WORDS] = job[fields.CODES] + 4 * first * spans * bits
            offset = read_grid(job, first, lanes, groups, grid)
            prefetch_grid(job, first + LANES, groups)
            for vector in range(count):
                add_offsets(total, offset, sums, vector * groups, groups, lanes)
                # Asked for in the loop: an array lives until it is named for the last time.
                frame[INPUTS] = inputs.ctypes.data + vector * columns * digits
                frame[STARTS] = starts.ctypes.data + 4 * vector * spans * digits
                frame[STEPS] = steps.ctypes.data + 4 * vector * spans
                call_at(job[fields.ADD_SPANS], argument)
                write(job, vector, first, lanes, total)

    return multiply


@part
def _write_digits(job, groups, inputs, starts, steps, sums):
    """Inputs in digits, what the sums of digits begin with, the steps, and sums of groups."""
    columns, count, group = job[fields.COLUMNS], job[fields.COUNT], job[fields.GROUP]
    digits, half = job[fields.DIGITS], 1 << (job[fields.BITS] - 1)
    floats = float32_at(job[fields.INPUTS], count * columns)
    halves = uint16_at(job[fields.INPUTS], count * columns)
    row, numbers = np.empty(SPAN, np.float32), np.empty(SPAN, np.int32)
    bits_of_row = row.view(np.int32)
    most = np.float32(((1 << BASE_BITS) - 1) << (BASE_BITS * (digits - 1)))
    for place in range(count * groups):
        sums[place] = np.float32(0)
    spans = columns // SPAN
    for span in range(count * spans):
        start = span * SPAN
        if job[fields.INPUT_IS_BFLOAT16]:
            for column in range(SPAN):
                bits_of_row[column] = np.int32(np.uint32(halves[start + column]) << np.uint32(16))
        else:
            for column in range(SPAN):
                row[column] = floats[start + column]
        largest, total = np.float32(0), np.float32(0)
        for column in range(SPAN):
            largest = max(largest, abs(row[column]))
            total += row[column]
        # What is not finite stays so: it is no number, or times nothing no number.
        steps[span] = largest / most + np.float32(0) * total
        inverse = most / largest if largest > 0 else np.float32(0)
        sums[span // spans * groups + span % spans * SPAN // group] += total
        for column in range(SPAN):
            numbers[column] = np.int32(np.rint(row[column] * inverse))
        for digit in range(digits):
            at, shift, sum_ = (span * digits + digit) * SPAN, BASE_BITS * (digits - 1 - digit), 0
            for column in range(SPAN):
                # To the nearest: the rest is at most half of what this digit counts.
                number = np.int32((numbers[column] + ((1 << shift) >> 1)) >> shift)
                numbers[column] -= np.int32(number << shift)
                inputs[at + column] = np.int8(number)
                sum_ += number
            starts[span * digits + digit] = np.int32(-half * sum_)
