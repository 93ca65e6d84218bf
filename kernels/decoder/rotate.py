"""Queries and keys of a token, normalised and rotated by its position (RoPE, Su et al., 2021)."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.native import floats
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at
from bitplan.kernels.native.product import write_numbers

FIELDS = 20
(
    COUNTER,
    VECTORS,
    HEADS,
    KEY_HEADS,
    WIDTH,  # of a head
    IS_HALF,  # of what is the model's: all but the three products
    COS,
    SIN,
    STEP,  # numbers from one vector's cosines to the next one's
    QUERY,  # products, float32; the rotated query takes its place
    KEY,
    VALUE,
    QUERY_BIAS,  # or 0, and so on
    KEY_BIAS,
    VALUE_BIAS,
    QUERY_NORM,
    KEY_NORM,
    EPS,
    KEY_OUT,
    VALUE_OUT,
) = range(FIELDS)


@cache
def function() -> Any:
    """A vector after another: its queries in place, its keys and values where the model reads."""

    stamp = STAMP

    @compiled(fastmath={"reassoc", "contract"})
    def rotate(address):
        _ = stamp
        job = int64_at(address, FIELDS)
        width, half = job[WIDTH], job[IS_HALF]
        columns, key_columns = job[HEADS] * width, job[KEY_HEADS] * width
        cos, sin = np.empty(width, np.float32), np.empty(width, np.float32)
        eps = floats.number_in(address, EPS)
        while True:
            vector = fetch_add(address, 1)
            if vector >= job[VECTORS]:
                break
            floats.read(job[COS], half, vector * job[STEP], cos)
            floats.read(job[SIN], half, vector * job[STEP], sin)
            query = float32_at(job[QUERY] + 4 * vector * columns, columns)
            floats.add(job[QUERY_BIAS], half, 0, query)
            _turn(query, cos, sin, job[QUERY_NORM], half, eps)
            key = float32_at(job[KEY] + 4 * vector * key_columns, key_columns)
            floats.add(job[KEY_BIAS], half, 0, key)
            _turn(key, cos, sin, job[KEY_NORM], half, eps)
            value = float32_at(job[VALUE] + 4 * vector * key_columns, key_columns)
            floats.add(job[VALUE_BIAS], half, 0, value)
            write_numbers(job[KEY_OUT], half, vector * key_columns, key_columns, key)
            write_numbers(job[VALUE_OUT], half, vector * key_columns, key_columns, value)

    return rotate


@part
def _turn(numbers, cos, sin, weight_at, half, eps):
    """Each head's numbers in place: normalised, where there is a weight, then rotated."""
    width, middle = len(cos), len(cos) // 2
    weight = np.empty(width, np.float32)
    if weight_at:
        floats.read(weight_at, half, 0, weight)
    for first in range(0, len(numbers), width):
        head = numbers[first : first + width]
        if weight_at:
            total = np.float32(0)
            for at in range(width):
                total += head[at] * head[at]
            factor = np.float32(1) / np.sqrt(total / np.float32(width) + eps)
            for at in range(width):
                head[at] *= factor * weight[at]
        for at in range(middle):
            low, high = head[at], head[at + middle]
            head[at] = low * cos[at] - high * sin[at]
            head[at + middle] = high * cos[at + middle] + low * sin[at + middle]
