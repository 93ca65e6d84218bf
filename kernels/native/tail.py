"""Columns beyond the last whole 32, multiplied as their bytes lie, a block of rows together."""

import numpy as np

from bitplan.formats.bits import CELL
from bitplan.kernels.native.compiled import part
from bitplan.kernels.native.layout import LANES, zero_of
from bitplan.kernels.native.memory import float32_at, uint8_at

CELLS = 2
"""Of 16 columns, which surely share a group."""


@part
def add_tail(codes_at, bits, cells, inputs, sums, scale_at, group, column, total):
    """Add the products of some cells to the totals of a block's rows.

    Args:
        codes_at: address of the cells' bytes: of each its first of all rows, then its second.
        bits: of a code.
        cells: how many there are.
        inputs: float32 [8 cells], nought beyond the last column.
        sums: float32 [cells / 2, rounded up], of inputs that belong to two cells.
        scale_at: address of float32 [groups, rows].
        group: columns that share a scale.
        column: the number of the first.
        total: float32, of whose numbers those of the block's rows are added to.
    """
    lanes, zero = len(total), np.float32(zero_of(bits))
    mask = np.int32((1 << bits) - 1)
    products = np.empty(LANES, np.float32)[:lanes]
    for pair in range((cells + CELLS - 1) // CELLS):
        products[:] = -zero * sums[pair]
        for cell in range(CELLS * pair, min(CELLS * (pair + 1), cells)):
            for place in range(CELL):
                bit, number = place * bits, inputs[cell * CELL + place]
                at, shift = codes_at + (cell * bits + bit // CELL) * lanes, np.int32(bit % CELL)
                low = uint8_at(at, lanes)
                if shift + bits > CELL:
                    high, left = uint8_at(at + lanes, lanes), np.int32(CELL) - shift
                    for lane in range(lanes):
                        both = np.int32(low[lane]) >> shift | np.int32(high[lane]) << left
                        products[lane] += np.float32(np.int32(both & mask)) * number
                else:
                    for lane in range(lanes):
                        code = np.int32(low[lane]) >> shift & mask
                        products[lane] += np.float32(np.int32(code)) * number
        of_group = (column + pair * CELLS * CELL) // group
        scale = float32_at(scale_at + 4 * of_group * lanes, lanes)
        for lane in range(lanes):
            total[lane] += scale[lane] * products[lane]
