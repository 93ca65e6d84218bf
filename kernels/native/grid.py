"""Scales and offsets of a block of rows, in float32, whatever they are stored in."""

import numpy as np

from bitplan.formats import double
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import part
from bitplan.kernels.native.layout import LANES
from bitplan.kernels.native.memory import float32_at, prefetch, uint8_at, uint16_at

SHARED = double.SHARED
CENTRE = double.CENTRE

LINE_BYTES = 64
"""Of a processor's cache: what is read together."""


@part
def read_grid(job, first, lanes, groups, bits):
    """Scale [groups, lanes] of rows that lie side by side, to bits[0], as float32; the offset.

    The offset is that of bits[1], and zero where there is none.
    """
    scale = bits[0].view(np.float32)
    offset = bits[1].view(np.float32)
    _read(
        job[fields.SCALE],
        job[fields.SCALE_STEP],
        job[fields.SCALE_TABLE],
        np.float32(0),
        first,
        lanes,
        groups,
        bits[0],
        scale,
    )
    if job[fields.OFFSET]:
        _read(
            job[fields.OFFSET],
            job[fields.OFFSET_STEP],
            0,
            np.float32(CENTRE),
            first,
            lanes,
            groups,
            bits[1],
            offset,
        )
    else:
        for place in range(groups * lanes):
            offset[place] = np.float32(0)
    return offset


@part
def prefetch_grid(job, first, groups):
    """Ask for what `read_grid` reads of the next block: it lies apart, and is over soon."""
    if first >= job[fields.ROWS]:
        return
    size = 1 if job[fields.SCALE_STEP] or job[fields.SCALE_TABLE] else 2
    start, count = first * groups * size, LANES * groups * size
    for at in range(start, start + count, LINE_BYTES):
        prefetch(job[fields.SCALE] + at)
        if job[fields.OFFSET]:
            prefetch(job[fields.OFFSET] + at)


@part
def _read(stored, step, table, centre, first, lanes, groups, bits, values):
    start, count = first * groups, lanes * groups
    if step:
        _read_doubled(stored, step, centre, first, lanes, groups, values)
    elif table:
        codes = uint8_at(stored + start, count)
        numbers = float32_at(table, 256)
        for place in range(count):
            values[place] = numbers[codes[place]]
    else:
        # At its own address: an index that might be negative would be tested for each number.
        halves = uint16_at(stored + 2 * start, count)
        for place in range(count):
            bits[place] = np.int32(np.uint32(halves[place]) << np.uint32(16))


@part
def _read_doubled(stored, step, centre, first, lanes, groups, values):
    """Codes less their centre, times the step of the row; a group's lanes at their own addresses.

    So the loop over them is one of vectors.
    """
    blocks = (groups + SHARED - 1) // SHARED
    for block in range(blocks):
        steps = uint16_at(step + 2 * (first * blocks + block * lanes), lanes)
        for group in range(block * SHARED, min(groups, (block + 1) * SHARED)):
            codes = uint8_at(stored + first * groups + group * lanes, lanes)
            into = float32_at(values.ctypes.data + 4 * group * lanes, lanes)
            for lane in range(lanes):
                factor = np.uint32(np.uint32(steps[lane]) << np.uint32(16)).view(np.float32)
                into[lane] = (np.float32(codes[lane]) - centre) * factor
