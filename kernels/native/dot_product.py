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
from bitplan.kernels.native.dot import BASE_BITS, add_span
from bitplan.kernels.native.grid import prefetch_grid, read_grid
from bitplan.kernels.native.layout import LANES, SPAN
from bitplan.kernels.native.memory import (
    call_at,
    fetch_add,
    float32_at,
    int8_at,
    int32_at,
    int64_at,
    uint16_at,
)
from bitplan.kernels.native.product import add_offsets, write
from bitplan.kernels.native.vectors import ROWS

ARGUMENTS = 9
(WORDS, SPANS, INPUTS, STARTS, STEPS, SCALE, GROUP, LANES_AT, TOTAL) = range(ARGUMENTS)

TOGETHER = 4
"""Vectors whose sums registers hold beside each other."""


@cache
def add_spans(bits: int, digits: int, vectors: int) -> Any:
    """What adds all spans' products to the totals of a block's rows, compiled for a width."""

    stamp = STAMP

    @compiled()
    def add(address):
        _ = stamp
        frame = int64_at(address, ARGUMENTS)
        spans, lanes, group = frame[SPANS], frame[LANES_AT], frame[GROUP]
        for span in range(spans):
            words = frame[WORDS] + 4 * span * bits * lanes
            scale = frame[SCALE] + 4 * (span * SPAN // group * lanes)
            for at in range(0, 4 * lanes, 4 * ROWS):
                add_span(
                    words + at,
                    4 * lanes,
                    scale + at,
                    frame[INPUTS] + span * digits * SPAN,
                    spans * digits * SPAN,
                    frame[STARTS] + 4 * span * digits,
                    4 * spans * digits,
                    frame[STEPS] + 4 * span,
                    4 * spans,
                    frame[TOTAL] + at,
                    4 * LANES,
                    bits,
                    digits,
                    vectors,
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
        written = np.empty(
            0 if job[fields.WRITTEN] else _bytes_of_digits(columns, count, group, digits), np.uint8
        )
        place = job[fields.WRITTEN]
        if not place:
            place = written.ctypes.data
            for vector in range(count):
                _write_digits(job, place, vector)
        steps, sums, starts, inputs = _places(job, place)
        sums_of_groups = float32_at(sums, count * groups)
        grid = np.empty((2, groups * LANES), np.int32)
        total = np.empty((TOGETHER, LANES), np.float32)
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
            vector = 0
            while vector < count:
                some = TOGETHER if vector + TOGETHER <= count else 1
                for one in range(some):
                    at = (vector + one) * groups
                    add_offsets(total[one], offset, sums_of_groups, at, groups, lanes)
                frame[INPUTS] = inputs + vector * columns * digits
                frame[STARTS] = starts + 4 * vector * spans * digits
                frame[STEPS] = steps + 4 * vector * spans
                call_at(job[fields.ADD_SPANS if some == 1 else fields.ADD_TOGETHER], argument)
                for one in range(some):
                    write(job, vector + one, first, lanes, total[one])
                vector += some
        # Named once more: an array lives until then.
        job[fields.UNUSED] = len(written) + len(grid)

    return multiply


@cache
def write_digits() -> Any:
    """Write the digits of many inputs to WRITTEN, for the workers of `product` to share."""

    stamp = STAMP

    @compiled()
    def write(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        while True:
            vector = fetch_add(address + 8 * fields.COUNTER, 1)
            if vector >= job[fields.COUNT]:
                break
            _write_digits(job, job[fields.WRITTEN], vector)

    return write


@part
def _places(job, place):
    """Where at a place the steps, the sums of groups, the starts and the digits lie."""
    columns, count, group = job[fields.COLUMNS], job[fields.COUNT], job[fields.GROUP]
    spans, groups = columns // SPAN, (columns + group - 1) // group
    sums = place + 4 * count * spans
    starts = sums + 4 * count * groups
    return place, sums, starts, starts + 4 * count * spans * job[fields.DIGITS]


@part
def _write_digits(job, place, vector):
    """A vector's inputs in digits, what sums of digits begin with, steps, and sums of groups."""
    columns, group = job[fields.COLUMNS], job[fields.GROUP]
    digits, half = job[fields.DIGITS], 1 << (job[fields.BITS] - 1)
    spans, groups = columns // SPAN, (columns + group - 1) // group
    steps_at, sums_at, starts_at, inputs_at = _places(job, place)
    steps = float32_at(steps_at + 4 * vector * spans, spans)
    sums = float32_at(sums_at + 4 * vector * groups, groups)
    starts = int32_at(starts_at + 4 * vector * spans * digits, spans * digits)
    inputs = int8_at(inputs_at + vector * columns * digits, columns * digits)
    floats = float32_at(job[fields.INPUTS] + 4 * vector * columns, columns)
    halves = uint16_at(job[fields.INPUTS] + 2 * vector * columns, columns)
    row, numbers = np.empty(SPAN, np.float32), np.empty(SPAN, np.int32)
    bits_of_row = row.view(np.int32)
    most = np.float32(((1 << BASE_BITS) - 1) << (BASE_BITS * (digits - 1)))
    for at in range(groups):
        sums[at] = np.float32(0)
    for span in range(spans):
        if job[fields.INPUT_IS_BFLOAT16]:
            some = halves[span * SPAN : (span + 1) * SPAN]
            for column in range(SPAN):
                bits_of_row[column] = np.int32(np.uint32(some[column]) << np.uint32(16))
        else:
            row[:] = floats[span * SPAN : (span + 1) * SPAN]
        largest, total = np.float32(0), np.float32(0)
        for column in range(SPAN):
            largest = max(largest, abs(row[column]))
            total += row[column]
        # What is not finite stays so: it is no number, or times nothing no number.
        steps[span] = largest / most + np.float32(0) * total
        inverse = most / largest if largest > 0 else np.float32(0)
        sums[span * SPAN // group] += total
        for column in range(SPAN):
            numbers[column] = np.int32(np.rint(row[column] * inverse))
        for digit in range(digits):
            at, shift, sum_ = (span * digits + digit) * SPAN, BASE_BITS * (digits - 1 - digit), 0
            digits_of = inputs[at : at + SPAN]
            for column in range(SPAN):
                # To the nearest: the rest is at most half of what this digit counts.
                number = np.int32((numbers[column] + ((1 << shift) >> 1)) >> shift)
                numbers[column] -= np.int32(number << shift)
                digits_of[column] = np.int8(number)
                sum_ += number
            starts[span * digits + digit] = np.int32(-half * sum_)


def bytes_of_digits(columns: int, count: int, group: int, digits: int) -> int:
    """What `write_digits` writes for so many vectors."""
    spans, groups = columns // SPAN, -(-columns // group)
    return count * (4 * spans + 4 * groups + 4 * spans * digits + columns * digits)


_bytes_of_digits: Any = part(bytes_of_digits)
