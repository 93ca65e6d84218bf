"""Root mean square normalisation (Zhang and Sennrich, 2019), of a sum if one is to be made."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.native import floats
from bitplan.kernels.native.compiled import STAMP, compiled
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at
from bitplan.kernels.native.product import write_numbers

FIELDS = 13
(
    COUNTER,
    VECTORS,
    COLUMNS,
    BASE,  # what is added to
    BASE_IS_HALF,
    ADDED,  # float32, or 0
    BIAS,  # added, too, or 0
    IS_HALF,  # of BIAS and WEIGHT
    SUM,  # where the sum goes, or 0
    SUM_IS_HALF,
    WEIGHT,  # or 0: there is nothing to normalise
    NORMED,  # float32
    EPS,
) = range(FIELDS)


@cache
def function() -> Any:
    """A vector after another is added to and normalised."""

    stamp = STAMP

    @compiled(fastmath={"reassoc", "contract"})
    def norm(address):
        _ = stamp
        job = int64_at(address, FIELDS)
        columns, half = job[COLUMNS], job[IS_HALF]
        numbers, weight = np.empty(columns, np.float32), np.empty(columns, np.float32)
        if job[WEIGHT]:
            floats.read(job[WEIGHT], half, 0, weight)
        while True:
            vector = fetch_add(address, 1)
            if vector >= job[VECTORS]:
                break
            floats.read(job[BASE], job[BASE_IS_HALF], vector * columns, numbers)
            floats.add(job[ADDED], 0, vector * columns, numbers)
            floats.add(job[BIAS], half, 0, numbers)
            if job[SUM]:
                write_numbers(job[SUM], job[SUM_IS_HALF], vector * columns, columns, numbers)
            if not job[WEIGHT]:
                continue
            total = np.float32(0)
            for column in range(columns):
                total += numbers[column] * numbers[column]
            mean = total / np.float32(columns) + floats.number_in(address, EPS)
            factor = np.float32(1) / np.sqrt(mean)
            normed = float32_at(job[NORMED] + 4 * vector * columns, columns)
            for column in range(columns):
                normed[column] = numbers[column] * factor * weight[column]

    return norm
