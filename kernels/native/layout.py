"""How codes and scales lie in memory for compiled loops: in as many bytes as the canonical tensors.

64 rows make a block of rows; all that is read of them lies together, one row beside the other, so
that a vector instruction works on as many rows as it has lanes. Of each of these rows, 32 codes of
B bits make B words of 32 bits. A word holds as many whole codes as fit; what is left at the top of
the words makes up one word more, of as many codes. So every code is a mask away from a number,
whatever its width. Columns beyond the last 32 keep their bytes, one row beside the other again.

`quads` has another way for codes to lie in their words, `arrange` brings them there and back.
"""

import numpy as np
from numba.extending import register_jitable

from bitplan.formats.bits import CELL
from bitplan.kernels.native.compiled import part

LANES = 64
"""Rows of a block."""

SPAN = 32
"""Columns of a block of words."""

CELLS = SPAN // CELL


@register_jitable
def zero_of(bits):
    """The code that stands for nothing: half of the range, and of a plane of bits the bit 0."""
    return 1 << (bits - 1) if bits > 1 else 0


@part
def read_words(words, start, lanes, bits, lane, flip, codes):
    """The 32 codes of a row, bits of `flip` inverted; `lane` of `lanes` that lie side by side."""
    whole = SPAN // bits
    spare = SPAN - whole * bits
    mask = (1 << bits) - 1
    rest = 0
    for word in range(bits):
        value = np.int64(np.uint32(words[start + word * lanes + lane]))
        for place in range(whole):
            codes[word * whole + place] = ((value >> (place * bits)) & mask) ^ flip
        rest |= (value >> (whole * bits)) << (spare * word)
    for place in range(spare):
        codes[bits * whole + place] = ((rest >> (place * bits)) & mask) ^ flip


@part
def write_words(words, start, lanes, bits, lane, codes):
    """What `read_words` reads."""
    whole = SPAN // bits
    spare = SPAN - whole * bits
    rest = 0
    for place in range(spare):
        rest |= codes[bits * whole + place] << (place * bits)
    for word in range(bits):
        value = ((rest >> (spare * word)) & ((1 << spare) - 1)) << (whole * bits)
        for place in range(whole):
            value |= codes[word * whole + place] << (place * bits)
        words[start + word * lanes + lane] = np.int32(np.uint32(value))


@part
def read_cells(packed, start, step, bits, cells, flip, codes):
    """Codes of some cells, whose bytes lie `step` apart, bits of `flip` inverted."""
    mask = (1 << bits) - 1
    for cell in range(cells):
        value = np.uint64(0)
        for byte in range(bits):
            value |= np.uint64(packed[start + (cell * bits + byte) * step]) << np.uint64(8 * byte)
        for place in range(CELL):
            code = np.int64(value >> np.uint64(place * bits)) & mask
            codes[cell * CELL + place] = code ^ flip


@part
def write_cells(packed, start, step, bits, cells, codes):
    """What `read_cells` reads."""
    for cell in range(cells):
        value = np.uint64(0)
        for place in range(CELL):
            value |= np.uint64(codes[cell * CELL + place]) << np.uint64(place * bits)
        for byte in range(bits):
            packed[start + (cell * bits + byte) * step] = np.uint8(value >> np.uint64(8 * byte))


@part
def last_words(tails, start, lanes, bits, rest, words):
    """Words of the columns beyond the last whole 32, as if there were 32 of them."""
    codes = np.empty(SPAN, np.int64)
    for column in range(SPAN):
        codes[column] = 0
    for lane in range(lanes):
        read_cells(tails, start + lane, lanes, bits, rest, 0, codes)
        write_words(words, 0, lanes, bits, lane, codes)
