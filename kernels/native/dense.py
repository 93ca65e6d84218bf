"""Weights without codes times a few vectors: as they are, or not there. For `program`s."""

from array import array
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import STAMP, compiled
from bitplan.kernels.native.layout import LANES
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at, uint16_at

FEW = 8
"""Vectors; for more, torch's matmul is quicker."""


def dense(weight: Float[Tensor, "rows columns"], count: int) -> fields.Terms | None:
    """The product with a weight of float32 or bfloat16, for later; None where there is none."""
    if count > FEW or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    if not weight.is_contiguous() or not weight.is_cpu:
        return None
    numbers = _fields(count, *weight.shape)
    numbers[fields.CODES] = weight.data_ptr()
    numbers[fields.BITS] = 8 * weight.dtype.itemsize
    return [fields.Term((fields.Job(product(), numbers, count * weight.numel(), weight),))]


def absent(rows: int, columns: int, count: int) -> fields.Terms:
    """The product with a weight that is not there, for later."""
    job = fields.Job(nothing(), _fields(count, rows, columns), count * rows, None)
    return [fields.Term((job,))]


def _fields(count: int, rows: int, columns: int) -> array:
    numbers = array("q", bytes(8 * fields.FIELDS))
    numbers[fields.COUNT], numbers[fields.ROWS], numbers[fields.COLUMNS] = count, rows, columns
    return numbers


@cache
def product() -> Any:
    """The compiled product, from float32 to float32."""

    stamp = STAMP

    @compiled(fastmath={"reassoc", "contract"})
    def multiply(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        rows, columns, count = job[fields.ROWS], job[fields.COLUMNS], job[fields.COUNT]
        inputs = float32_at(job[fields.INPUTS], count * columns)
        output = float32_at(job[fields.OUTPUT], count * rows)
        row = np.empty(columns, np.float32)
        # Here, for an array that is made of another is counted, by all threads together.
        words = row.view(np.uint32)
        halves = uint16_at(job[fields.CODES], rows * columns)
        numbers = float32_at(job[fields.CODES], rows * columns)
        while True:
            first = fetch_add(address + 8 * fields.COUNTER, 1) * LANES
            if first >= rows:
                break
            for at in range(first, min(first + LANES, rows)):
                if job[fields.BITS] == 16:
                    of_row = halves[at * columns : (at + 1) * columns]
                    for column in range(columns):
                        words[column] = np.uint32(of_row[column]) << np.uint32(16)
                else:
                    row[:] = numbers[at * columns : (at + 1) * columns]
                for vector in range(count):
                    some = inputs[vector * columns : (vector + 1) * columns]
                    total = np.float32(0)
                    for column in range(columns):
                        total += row[column] * some[column]
                    output[vector * rows + at] = total

    return multiply


@cache
def nothing() -> Any:
    """Zeros."""

    stamp = STAMP

    @compiled()
    def write(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        if fetch_add(address + 8 * fields.COUNTER, 1) == 0:
            float32_at(job[fields.OUTPUT], job[fields.COUNT] * job[fields.ROWS])[:] = 0

    return write
