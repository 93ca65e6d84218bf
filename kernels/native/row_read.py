"""A row of a weight that is read as it is packed, and not rearranged: its numbers, in float32.

Kept codes of a sparse row lie one after another, so a row is not read beside others, but by itself:
its codes are brought to bytes, and these to their columns, all in the processor's nearest cache.
Numbers are the very ones that the reference decodes.
"""

import numpy as np

from bitplan.formats.base3 import DIGITS
from bitplan.formats.bits import CELL
from bitplan.formats.scales import CHOICE_BITS
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import part
from bitplan.kernels.native.expand import CHUNK, spread_chunk, unpack_chunk
from bitplan.kernels.native.grid import read_grid
from bitplan.kernels.native.memory import copy, int32_at, uint8_at, uint16_at, word_at
from bitplan.kernels.native.sixteen import COLUMNS, ENTRIES, integers, looked_up
from bitplan.kernels.native.sixteen_sums import add_integers, add_looked_up
from bitplan.kernels.native.trits import TERNARY

SUMS = 4 * COLUMNS
"""Of the products of a row."""

INTEGER, FEW, MANY = range(3)
"""KIND of values: of evenly spaced codes, and of a table of ENTRIES or of more."""


@part
def room(job):
    """Bytes that reading a row needs, zeros before the first: see `_places`."""
    return _places(job, 0)[-1]


@part
def _places(job, place):
    """Where at a place the codes, the mask, what is spread, a copy and the grid lie, and the end.

    Addresses, not arrays: those are counted by all threads together whenever they are handed on.
    """
    columns = job[fields.COLUMNS]
    width = (columns + CHUNK - 1) // CHUNK * CHUNK
    groups = (columns + job[fields.GROUP] - 1) // job[fields.GROUP]
    # Each as much longer as a chunk that is read or written may reach.
    mask = place + width + 2 * CHUNK
    spread = mask + width // CELL
    copied = spread + width
    grid = copied + max(job[fields.CODE_BYTES], job[fields.MASK_BYTES]) + (CELL + 1) * CHUNK
    grid = (grid + CHUNK - 1) // CHUNK * CHUNK
    return place, mask, spread, copied, grid, grid + 8 * groups


@part
def read_row(job, row, place, how, output):
    """Numbers of a row, to float32 at an address, as many as whole sixteens have."""
    codes, mask = _codes_and_mask(job, row, place, how)
    kind, half, groups, scale, offset = _grid(job, row, place)
    for group in range(groups):
        first, end = _sixteens(job, group, groups)
        values = _table(job, row, group, groups)
        for at in range(first, end):
            code, kept, to = codes + at * COLUMNS, mask + 2 * at, output + 4 * at * COLUMNS
            if kind == INTEGER:
                integers(code, kept, scale[group], offset[group], half, to)
            elif kind == FEW:
                looked_up(code, kept, scale[group], values, to, 1)
            else:
                looked_up(code, kept, scale[group], values, to, 0)


@part
def add_row(job, row, place, how, inputs, total):
    """Add the products of a row's numbers and inputs, float32 at an address, to `SUMS` sums."""
    codes, mask = _codes_and_mask(job, row, place, how)
    kind, half, groups, scale, offset = _grid(job, row, place)
    for group in range(groups):
        first, end = _sixteens(job, group, groups)
        code, kept, x = codes + first * COLUMNS, mask + 2 * first, inputs + 4 * first * COLUMNS
        values = _table(job, row, group, groups)
        # Groups take turns: what was just stored is not to be waited for.
        to = total + 4 * COLUMNS * (group % (SUMS // COLUMNS))
        if kind == INTEGER:
            add_integers(code, kept, x, end - first, (scale[group], offset[group]), half, to)
        elif kind == FEW:
            add_looked_up(code, kept, x, end - first, scale[group], values, to, 1)
        else:
            add_looked_up(code, kept, x, end - first, scale[group], values, to, 0)


@part
def _codes_and_mask(job, row, place, how):
    """Addresses of a row's codes, in their columns, and of the bits that say which are kept."""
    codes, mask, spread, copied, _, _ = _places(job, place)
    _unpack(job, row, codes, copied, how)
    _read_mask(job, row, mask, copied)
    if not job[fields.MASK]:
        return codes, mask
    for chunk in range((job[fields.COLUMNS] + CHUNK - 1) // CHUNK):
        at = chunk * CHUNK
        codes += spread_chunk(codes, mask + at // CELL, spread + at, how)
    return spread, mask


@part
def _unpack(job, row, codes, copied, how):
    """The codes that a row has, each to a byte of its own."""
    size, bits = job[fields.CODE_BYTES], job[fields.BITS]
    source = job[fields.CODES] + row * size
    if bits == TERNARY:
        stored, found = uint8_at(source, size), uint8_at(codes, size * DIGITS)
        for byte in range(size):
            left = np.int32(stored[byte])
            for digit in range(DIGITS):
                found[byte * DIGITS + digit] = left % np.int32(3)
                left //= np.int32(3)
    else:
        if (job[fields.ROWS] - row) * size < size + CELL * CHUNK:
            # Chunks are read, and the last may reach beyond what is packed.
            copy(source, copied, size)
            source = copied
        for chunk in range((size // bits + CELL - 1) // CELL):
            unpack_chunk(source + chunk * CELL * bits, bits, codes + chunk * CHUNK, how)


@part
def _read_mask(job, row, mask, copied):
    """Which columns are kept, a bit a column; none beyond the last."""
    columns = job[fields.COLUMNS]
    sixteens = (columns + COLUMNS - 1) // COLUMNS
    masks, size = uint16_at(mask, sixteens), job[fields.MASK_BYTES]
    stored = job[fields.MASK] + row * size
    if not job[fields.MASK]:
        masks[:] = 0xFFFF
    elif not job[fields.MASK_BITS]:
        copy(stored, mask, size)
    else:
        bits = job[fields.MASK_BITS]
        table, last = uint16_at(job[fields.MASK_TABLE], 1 << bits), np.uint64((1 << bits) - 1)
        copy(stored, copied, size)
        for at in range(sixteens):
            word = word_at(copied + (at * bits >> 3)) >> np.uint64(at * bits & 7)
            masks[at] = table[word & last]
    if columns % COLUMNS:
        masks[sixteens - 1] &= np.uint16((1 << (columns % COLUMNS)) - 1)


@part
def _grid(job, row, place):
    """What a row's numbers are made with: kind, half of the codes, groups, scales and offsets."""
    groups = (job[fields.COLUMNS] + job[fields.GROUP] - 1) // job[fields.GROUP]
    grid = int32_at(_places(job, place)[4], 2 * groups).reshape((2, groups))
    offset = read_grid(job, row, 1, groups, grid)
    half = np.int32(1 << max(0, job[fields.BITS] - 1))
    return job[fields.KIND], half, groups, grid[0].view(np.float32), offset


@part
def _sixteens(job, group, groups):
    """The first sixteen columns of a group, and those after its last."""
    each = job[fields.GROUP] // COLUMNS
    if group == groups - 1:
        return group * each, (job[fields.COLUMNS] + COLUMNS - 1) // COLUMNS
    return group * each, (group + 1) * each


@part
def _table(job, row, group, groups):
    """Address of the values of a group's codes."""
    if not job[fields.CHOICE]:
        return job[fields.TABLE]
    return job[fields.TABLE] + 4 * ENTRIES * _choice(job, row, groups, group)


@part
def _choice(job, row, groups, group):
    """Which table a group of a row has."""
    size = (groups + CELL - 1) // CELL * CHOICE_BITS
    byte = uint8_at(job[fields.CHOICE] + row * size, size)[group * CHOICE_BITS // 8]
    return np.int64(byte >> np.uint8(group * CHOICE_BITS % 8)) & ((1 << CHOICE_BITS) - 1)
