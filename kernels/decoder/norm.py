"""Root mean square normalisation (Zhang and Sennrich, 2019), of a sum if one is to be made."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.native import floats
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at
from bitplan.kernels.native.product import write_numbers

FIELDS = 17
(
    COUNTER,
    VECTORS,
    COLUMNS,
    BASE,  # what is added to
    BASE_IS_HALF,
    ADDED,  # float32, or 0
    BIAS,  # of what is added, or 0
    IS_HALF,  # of BIAS and weights
    ADDED_WEIGHT,  # or 0: what is added is not normalised
    ADDED_EPS,
    FACTOR,  # of what is added
    ONE,  # that is added to weights: 1 or 0
    SUM,  # where the sum goes, or 0
    SUM_IS_HALF,
    WEIGHT,  # or 0: the sum is not normalised
    NORMED,  # float32; or 0: nobody reads it
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
        factor, one = floats.number_in(address, FACTOR), floats.number_in(address, ONE)
        numbers = np.empty(columns, np.float32)
        of_added, weight = np.empty(columns, np.float32), np.empty(columns, np.float32)
        read_weight(job[ADDED_WEIGHT], half, one, of_added)
        read_weight(job[WEIGHT], half, one, weight)
        while True:
            vector = fetch_add(address, 1)
            if vector >= job[VECTORS]:
                break
            numbers[:] = 0
            floats.add(job[ADDED], 0, vector * columns, numbers)
            floats.add(job[BIAS], half, 0, numbers)
            if job[ADDED_WEIGHT]:
                normalise(numbers, of_added, floats.number_in(address, ADDED_EPS))
            for column in range(columns):
                numbers[column] *= factor
            floats.add(job[BASE], job[BASE_IS_HALF], vector * columns, numbers)
            if job[SUM]:
                write_numbers(job[SUM], job[SUM_IS_HALF], vector * columns, columns, numbers)
            if not job[NORMED]:
                continue
            if job[WEIGHT]:
                normalise(numbers, weight, floats.number_in(address, EPS))
            float32_at(job[NORMED] + 4 * vector * columns, columns)[:] = numbers

    return norm


@part
def read_weight(address, half, one, weight):
    """A norm's weight, as it multiplies; nothing where the address is 0."""
    if address:
        floats.read(address, half, 0, weight)
        for at in range(len(weight)):
            weight[at] += one


@part
def normalise(numbers, weight, eps):
    """Numbers over the root of their mean square, each times its weight, in their place."""
    total = np.float32(0)
    for at in range(len(numbers)):
        total += numbers[at] * numbers[at]
    factor = np.float32(1) / np.sqrt(total / np.float32(len(numbers)) + eps)
    for at in range(len(numbers)):
        numbers[at] *= factor * weight[at]
