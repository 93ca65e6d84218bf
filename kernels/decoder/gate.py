"""The gate of a feed-forward layer: SiLU or GELU of a product, times the other (Shazeer, 2020)."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.decoder.roles import GELU_TANH
from bitplan.kernels.native import floats
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at

FIELDS = 11
(
    COUNTER,
    VECTORS,
    COLUMNS,
    IS_HALF,  # of the biases
    KIND,  # SILU or GELU_TANH
    GATE,  # float32
    UP,  # float32
    STEP,  # numbers from one vector's to the next one's, of both
    GATE_BIAS,  # or 0
    UP_BIAS,
    OUTPUT,  # float32 [vectors, columns]
) = range(FIELDS)

CHUNK = 512
"""Columns that a worker takes at a time."""


@cache
def function() -> Any:
    """Some columns after others."""

    stamp = STAMP

    @compiled(fastmath={"reassoc", "contract"})
    def gate(address):
        _ = stamp
        job = int64_at(address, FIELDS)
        columns, half = job[COLUMNS], job[IS_HALF]
        chunks = (columns + CHUNK - 1) // CHUNK
        while True:
            at = fetch_add(address, 1)
            if at >= job[VECTORS] * chunks:
                break
            vector, first = at // chunks, at % chunks * CHUNK
            count = min(CHUNK, columns - first)
            numbers = float32_at(job[GATE] + 4 * (vector * job[STEP] + first), count)
            up = float32_at(job[UP] + 4 * (vector * job[STEP] + first), count)
            floats.add(job[GATE_BIAS], half, first, numbers)
            floats.add(job[UP_BIAS], half, first, up)
            fallen = np.empty(count, np.float32)
            _opposite(numbers, job[KIND], fallen)
            floats.exponential(fallen)
            output = float32_at(job[OUTPUT] + 4 * (vector * columns + first), count)
            for column in range(count):
                output[column] = numbers[column] * up[column] / (np.float32(1) + fallen[column])

    return gate


@part
def _opposite(numbers, kind, opposite):
    """Less what is given to the sigmoid that each number is multiplied by.

    (1 + tanh(y)) / 2, of GELU's approximation (Hendrycks and Gimpel, 2016), is the sigmoid of 2y.
    """
    if kind == GELU_TANH:
        for at in range(len(numbers)):
            number = numbers[at]
            cubic = number + np.float32(0.044715) * number * number * number
            opposite[at] = np.float32(-TWICE_ROOT) * cubic
    else:
        for at in range(len(numbers)):
            opposite[at] = -numbers[at]


TWICE_ROOT = 1.5957691216057308
"""Twice the root of 2 / pi."""
