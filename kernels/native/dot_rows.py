"""Rows whose codes lie in quads, decoded as the reference decodes them, for torch to multiply."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import STAMP, compiled
from bitplan.kernels.native.dot_decode import decode_span
from bitplan.kernels.native.grid import read_grid
from bitplan.kernels.native.layout import LANES, SPAN
from bitplan.kernels.native.memory import fetch_add, int64_at
from bitplan.kernels.native.vectors import ROWS


@cache
def transposed(bits: int, half: int) -> Any:
    """Decode COUNT rows from FIRST on to an output [columns, COUNT], in bfloat16 where `half` is 1.

    FIRST is where a block begins. Compiled for a width.
    """

    stamp = STAMP
    size = 2 if half else 4

    @compiled()
    def decode(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        rows, columns, count = job[fields.ROWS], job[fields.COLUMNS], job[fields.COUNT]
        group = job[fields.GROUP]
        spans, groups = columns // SPAN, (columns + group - 1) // group
        grid = np.empty((2, groups * LANES), np.int32)
        while True:
            start = fetch_add(address + 8 * fields.COUNTER, 1) * LANES
            if start >= count:
                break
            first = job[fields.FIRST] + start
            lanes = min(LANES, rows - first)
            offset = read_grid(job, first, lanes, groups, grid)
            for span in range(spans):
                words = job[fields.CODES] + 4 * (first * spans + span * lanes) * bits
                at_group = 4 * (span * SPAN // group * lanes)
                for lane in range(0, lanes, ROWS):
                    decode_span(
                        words + 4 * lane,
                        4 * lanes,
                        grid.ctypes.data + at_group + 4 * lane,
                        offset.ctypes.data + at_group + 4 * lane,
                        job[fields.OUTPUT] + size * (span * SPAN * count + start + lane),
                        size * count,
                        bits,
                        half,
                    )

    return decode
