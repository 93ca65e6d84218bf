"""Scales and offsets of a block of rows, in float32, whatever they are stored in."""

import numpy as np

from bitplan.formats import double
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import part
from bitplan.kernels.native.memory import float32_at, uint8_at, uint16_at

SHARED = double.SHARED
CENTRE = double.CENTRE


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
        job[fields.ROWS],
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
            job[fields.ROWS],
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
def _read(stored, step, table, centre, rows, first, lanes, groups, bits, values):
    start, count = first * groups, lanes * groups
    if step:
        blocks = (groups + SHARED - 1) // SHARED
        codes = uint8_at(stored, rows * groups)
        steps = uint16_at(step, rows * blocks)
        one = np.empty(1, np.int32)
        for group in range(groups):
            for lane in range(lanes):
                place = first * blocks + group // SHARED * lanes + lane
                one[0] = np.int32(np.uint32(steps[place]) << np.uint32(16))
                code = np.float32(codes[start + group * lanes + lane]) - centre
                values[group * lanes + lane] = code * one.view(np.float32)[0]
    elif table:
        codes = uint8_at(stored, rows * groups)
        numbers = float32_at(table, 256)
        for place in range(count):
            values[place] = numbers[codes[start + place]]
    else:
        halves = uint16_at(stored, rows * groups)
        for place in range(count):
            bits[place] = np.int32(np.uint32(halves[start + place]) << np.uint32(16))
