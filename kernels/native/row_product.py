"""Products with a weight that is read row by row as it is packed, and its rows: see `row_read`."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.expand import CHUNK
from bitplan.kernels.native.layout import LANES
from bitplan.kernels.native.memory import address_of, fetch_add, float32_at, int64_at, uint16_at
from bitplan.kernels.native.product import write, write_at
from bitplan.kernels.native.row_read import SUMS, add_row, read_row, room
from bitplan.kernels.native.sixteen_sums import dot


@cache
def product(how: str) -> Any:
    """The compiled product with a few vectors: each row is read once. `how` is `expand`'s."""

    stamp = STAMP

    @compiled()
    def multiply(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        rows, columns, count = job[fields.ROWS], job[fields.COLUMNS], job[fields.COUNT]
        width = (columns + CHUNK - 1) // CHUNK * CHUNK
        inputs = np.zeros((count, width), np.float32)
        _read_inputs(job, inputs)
        total = np.empty((count, LANES), np.float32)
        memory, row = np.zeros(room(job), np.uint8), np.zeros(width, np.float32)
        place, row_at, inputs_at = address_of(memory), address_of(row), address_of(inputs)
        while True:
            first = fetch_add(address + 8 * fields.COUNTER, 1) * LANES
            if first >= rows:
                break
            lanes = min(LANES, rows - first)
            for lane in range(lanes):
                if count == 1:
                    row[:SUMS] = 0
                    add_row(job, first + lane, place, how, inputs_at, row_at)
                    total[0, lane] = row[:SUMS].sum()
                    continue
                read_row(job, first + lane, place, how, row_at)
                for vector in range(count):
                    total[vector, lane] = dot(row_at, inputs_at + 4 * vector * width, width)
            for vector in range(count):
                write(job, vector, first, lanes, total[vector])
        # Named once more: an array lives until then.
        job[fields.UNUSED] = len(memory) + len(row) + len(inputs)

    return multiply


@cache
def rows(how: str) -> Any:
    """COUNT rows from FIRST on, or those whose int64 numbers are the inputs, to [COUNT, columns].

    In float32 or bfloat16.

    A number that no row has is written to FIRST, and IS_MISSING set.
    """

    stamp = STAMP

    @compiled()
    def decode(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        columns, count = job[fields.COLUMNS], job[fields.COUNT]
        numbers = int64_at(job[fields.INPUTS], count)
        row = np.empty((columns + CHUNK - 1) // CHUNK * CHUNK, np.float32)
        memory = np.zeros(room(job), np.uint8)
        place, row_at = address_of(memory), address_of(row)
        while True:
            at = fetch_add(address + 8 * fields.COUNTER, 1)
            if at >= count:
                break
            number = numbers[at] if job[fields.INPUTS] else job[fields.FIRST] + at
            if number < 0 or number >= job[fields.ROWS]:
                job[fields.FIRST], job[fields.IS_MISSING] = number, 1
                continue
            read_row(job, number, place, how, row_at)
            write_at(job, at * columns, columns, row)
        job[fields.UNUSED] = len(memory)

    return decode


@part
def _read_inputs(job, inputs):
    """Vectors in float32."""
    columns, count = job[fields.COLUMNS], job[fields.COUNT]
    floats = float32_at(job[fields.INPUTS], count * columns)
    halves = uint16_at(job[fields.INPUTS], count * columns)
    for vector in range(count):
        start = vector * columns
        if job[fields.INPUT_IS_BFLOAT16]:
            bits = inputs[vector].view(np.int32)
            for column in range(columns):
                bits[column] = np.int32(np.uint32(halves[start + column]) << np.uint32(16))
        else:
            inputs[vector, :columns] = floats[start : start + columns]
