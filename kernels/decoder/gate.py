"""The gate of a feed-forward layer: SiLU of a product, times the other (SwiGLU; Shazeer, 2020)."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.native import floats
from bitplan.kernels.native.compiled import STAMP, compiled
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at

FIELDS = 8
(
    COUNTER,
    VECTORS,
    COLUMNS,
    IS_HALF,  # of the biases
    GATE,  # float32; what is gated takes its place
    UP,  # float32
    GATE_BIAS,  # or 0
    UP_BIAS,
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
            first = at % chunks * CHUNK
            count = min(CHUNK, columns - first)
            start = at // chunks * columns + first
            numbers = float32_at(job[GATE] + 4 * start, count)
            up = float32_at(job[UP] + 4 * start, count)
            floats.add(job[GATE_BIAS], half, first, numbers)
            floats.add(job[UP_BIAS], half, first, up)
            fallen = np.empty(count, np.float32)
            for column in range(count):
                fallen[column] = -numbers[column]
            floats.exponential(fallen)
            for column in range(count):
                numbers[column] *= up[column] / (np.float32(1) + fallen[column])

    return gate
