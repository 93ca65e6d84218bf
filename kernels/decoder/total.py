"""A sum of products, in place of the first of them."""

from functools import cache
from typing import Any

from bitplan.kernels.native.compiled import STAMP, compiled
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at

FIELDS = 4
(
    COUNTER,
    SIZE,  # numbers of a product
    ADDED,  # products beside the first, whose addresses follow
    TOTAL,  # float32
) = range(FIELDS)

CHUNK = 2048
"""Numbers that a worker takes at a time."""


@cache
def function() -> Any:
    """Some numbers after others."""

    stamp = STAMP

    @compiled()
    def add(address):
        _ = stamp
        job = int64_at(address, FIELDS)
        products = int64_at(address + 8 * FIELDS, job[ADDED])
        while True:
            first = fetch_add(address, 1) * CHUNK
            if first >= job[SIZE]:
                break
            count = min(CHUNK, job[SIZE] - first)
            total = float32_at(job[TOTAL] + 4 * first, count)
            for product in products:
                more = float32_at(product + 4 * first, count)
                for at in range(count):
                    total[at] += more[at]

    return add
