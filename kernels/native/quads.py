"""How codes lie for integer products: the codes of four columns in the bytes of a 32-bit word.

As in `layout`, 64 rows make a block of rows, one beside the other, and 32 codes of B bits of a row
make B words. Here a code is cut into the powers of two that B is made of, 5 bits into 4 and 1. A
part of P bits has P words; each holds 8 / P quads, P bits of each byte a quad, so that a shift and
a mask bring that part of four codes to the four bytes: to where processors multiply bytes.
"""

import numpy as np

from bitplan.kernels.native.compiled import part
from bitplan.kernels.native.layout import SPAN

QUADS = SPAN // 4


@part
def read_quads(words, start, lanes, bits, lane, codes):
    """The 32 codes of a row; `lane` of `lanes` that lie side by side."""
    for column in range(SPAN):
        codes[column] = 0
    low = 0
    for power in range(4):
        width = 8 >> power
        if bits & width:
            for column in range(SPAN):
                quad = column // 4
                word = np.int64(np.uint32(words[start + _word(quad, low, width) * lanes + lane]))
                piece = (word >> _shift(column, width)) & ((1 << width) - 1)
                codes[column] |= piece << low
            low += width


@part
def write_quads(words, start, lanes, bits, lane, codes):
    """What `read_quads` reads."""
    for word in range(bits):
        words[start + word * lanes + lane] = 0
    low = 0
    for power in range(4):
        width = 8 >> power
        if bits & width:
            for column in range(SPAN):
                piece = (codes[column] >> low) & ((1 << width) - 1)
                place = start + _word(column // 4, low, width) * lanes + lane
                words[place] |= np.int32(np.uint32(piece << _shift(column, width)))
            low += width


@part
def _word(quad, low, width):
    """Which word holds the bits of a quad from `low` on."""
    return low + quad * width // 8


@part
def _shift(column, width):
    """Where in its word the bits of a column begin."""
    return column // 4 * width % 8 + column % 4 * 8
