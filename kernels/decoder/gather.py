"""Some of a vector's numbers, one after another: what a product of some columns reads."""

from functools import cache
from typing import Any

from bitplan.kernels.native.compiled import STAMP, compiled
from bitplan.kernels.native.memory import fetch_add, float32_at, int32_at, int64_at

FIELDS = 7
(
    COUNTER,
    VECTORS,
    WIDTH,  # of a vector
    COLUMNS,  # that are taken
    NUMBERS,  # of those: int32
    INPUTS,  # float32
    OUTPUT,  # float32
) = range(FIELDS)


@cache
def function() -> Any:
    """A vector after another."""

    stamp = STAMP

    @compiled()
    def gather(address):
        _ = stamp
        job = int64_at(address, FIELDS)
        width, columns = job[WIDTH], job[COLUMNS]
        numbers = int32_at(job[NUMBERS], columns)
        while True:
            vector = fetch_add(address, 1)
            if vector >= job[VECTORS]:
                break
            inputs = float32_at(job[INPUTS] + 4 * vector * width, width)
            output = float32_at(job[OUTPUT] + 4 * vector * columns, columns)
            for at in range(columns):
                output[at] = inputs[numbers[at]]

    return gather
