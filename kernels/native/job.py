"""One product for compiled loops, and the threads that share it.

A job is an array of 64-bit integers: addresses and sizes, by the names below. Workers take blocks
of rows from it by its counter until none is left, so it does not matter how many there are, or
which is slow; a row is one worker's alone, so the result does not depend on them either.

The workers are torch's own where its OpenMP runtime can be found, as on Linux: two pools would
compete for the cores. (numba's own pool, beside that, may not be entered by two threads at once.)
"""

import ctypes
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

FIELDS = 34
(
    CODES,
    SCALE,
    SCALE_STEP,
    SCALE_TABLE,
    OFFSET,
    OFFSET_STEP,
    TABLE,
    INPUTS,
    INPUT_IS_BFLOAT16,
    COUNT,
    OUTPUT,
    OUTPUT_IS_BFLOAT16,
    ROWS,
    COLUMNS,
    GROUP,
    ADD_SPANS,
    ADD_TOGETHER,
    BITS,
    FLIP,
    RESTORE,
    QUADS,
    DIGITS,
    WRITTEN,
    UNUSED,
    FIRST,
    IS_MISSING,
    COUNTER,
    CODE_BYTES,
    MASK,
    MASK_BYTES,
    MASK_BITS,
    MASK_TABLE,
    CHOICE,
    KIND,
) = range(FIELDS)

LEAST_WORK = 1 << 17
"""Multiplications of a job that are worth a second worker."""


class Job(NamedTuple):
    """A job that is done later, and again.

    Args:
        function: compiled; does it.
        fields: the array of it.
        work: multiplications.
        kept: what its addresses are of.
    """

    function: Any
    fields: array
    work: int
    kept: Any


class Term(NamedTuple):
    """A product of some of the inputs, or of all, that is summed with others.

    Args:
        jobs: the first reads inputs, and each other one what the one before it gives.
        columns: numbers of the inputs that are read, in their order; None: all.
    """

    jobs: tuple[Job, ...]
    columns: Int[Tensor, "some"] | None = None


Terms = Sequence[Term]
"""A product, as the sum of others."""


def workers_for(work: int) -> int:
    """Threads that so many multiplications are worth, of those that torch may use."""
    return min(torch.get_num_threads(), work // LEAST_WORK) if work >= 2 * LEAST_WORK else 1


def run(function: Any, job: array, work: int) -> None:
    """Let a compiled function do a job, with as many threads as torch may use."""
    address, _ = job.buffer_info()
    workers = workers_for(work)
    if workers == 1:
        function.ctypes(address)
    elif (parallel := openmp()) is not None:
        parallel(function.address, address, workers, 0)
    else:
        list(_pool(workers).map(function.ctypes, [address] * workers))


@cache
def openmp() -> Any:
    """What starts a parallel region of the OpenMP runtime that torch has loaded, or None."""
    try:
        start = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    return start


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="bitplan-product")
