"""Queries and keys of a token, normalised and rotated by its position (RoPE, Su et al., 2021)."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.decoder.norm import normalise, read_weight
from bitplan.kernels.native import floats
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at
from bitplan.kernels.native.product import write_numbers

FIELDS = 26
(
    COUNTER,
    VECTORS,
    HEADS,
    KEY_HEADS,
    WIDTH,  # of a head
    IS_HALF,  # of what is the model's: all but the three products
    COS,
    SIN,
    COS_IS_HALF,  # and sines are
    STEP,  # numbers from one vector's cosines to the next one's
    ROTATED,  # first numbers of a head that are rotated: as many as there are cosines
    QUERY,  # products, float32; the rotated query takes its place
    KEY,
    VALUE,
    QUERY_STEP,  # numbers from one vector's queries to the next one's
    KEY_STEP,  # the same of keys, and of values
    QUERY_BIAS,  # or 0, and so on
    KEY_BIAS,
    VALUE_BIAS,
    QUERY_NORM,
    KEY_NORM,
    NORM_IS_WHOLE,  # of all heads together, not of each
    ONE,  # that is added to the norms' weights: 1 or 0
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
        width, half, rotated = job[WIDTH], job[IS_HALF], job[ROTATED]
        columns, key_columns = job[HEADS] * width, job[KEY_HEADS] * width
        cos, sin = np.empty(rotated, np.float32), np.empty(rotated, np.float32)
        one, eps = floats.number_in(address, ONE), floats.number_in(address, EPS)
        is_whole = job[NORM_IS_WHOLE]
        of_query = np.empty(columns if is_whole else width, np.float32)
        of_key = np.empty(key_columns if is_whole else width, np.float32)
        read_weight(job[QUERY_NORM], half, one, of_query)
        read_weight(job[KEY_NORM], half, one, of_key)
        while True:
            vector = fetch_add(address, 1)
            if vector >= job[VECTORS]:
                break
            floats.read(job[COS], job[COS_IS_HALF], vector * job[STEP], cos)
            floats.read(job[SIN], job[COS_IS_HALF], vector * job[STEP], sin)
            query = float32_at(job[QUERY] + 4 * vector * job[QUERY_STEP], columns)
            floats.add(job[QUERY_BIAS], half, 0, query)
            if job[QUERY_NORM]:
                _normalise_each(query, of_query, eps)
            _turn(query, width, cos, sin)
            key = float32_at(job[KEY] + 4 * vector * job[KEY_STEP], key_columns)
            floats.add(job[KEY_BIAS], half, 0, key)
            if job[KEY_NORM]:
                _normalise_each(key, of_key, eps)
            _turn(key, width, cos, sin)
            value = float32_at(job[VALUE] + 4 * vector * job[KEY_STEP], key_columns)
            floats.add(job[VALUE_BIAS], half, 0, value)
            write_numbers(job[KEY_OUT], half, vector * key_columns, key_columns, key)
            write_numbers(job[VALUE_OUT], half, vector * key_columns, key_columns, value)

    return rotate


@part
def _normalise_each(numbers, weight, eps):
    """As many numbers as a weight has, after another."""
    for first in range(0, len(numbers), len(weight)):
        normalise(numbers[first : first + len(weight)], weight, eps)


@part
def _turn(numbers, width, cos, sin):
    """The first numbers of each head, in place."""
    middle = len(cos) // 2
    for first in range(0, len(numbers), width):
        head = numbers[first : first + width]
        for at in range(middle):
            low, high = head[at], head[at + middle]
            head[at] = low * cos[at] - high * sin[at]
            head[at + middle] = high * cos[at + middle] + low * sin[at + middle]
