"""How codes and scales lie in memory for compiled loops: in as many bytes as the canonical tensors.

64 rows make a block of rows; all that is read of them lies together, one row beside the other, so
that a vector instruction works on as many rows as it has lanes. Of each of these rows, 32 codes of
B bits make B words of 32 bits. A word holds as many whole codes as fit; what is left at the top of
the words makes up one word more, of as many codes. So every code is a mask away from a number,
whatever its width. Columns beyond the last 32 keep their bytes, one row beside the other again.
"""

from array import array
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitplan.formats.bits import CELL, row_bytes
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.memory import fetch_add, int32_at, int64_at, uint8_at

LANES = 64
"""Rows of a block."""

SPAN = 32
"""Columns of a block of words."""

CELLS = SPAN // CELL


def arrange_codes(codes: UInt8[Tensor, "rows bytes"], bits: int, flip: int) -> UInt8[Tensor, "n"]:
    """From canonical codes to the layout; `flip` is a mask of bits that are inverted on the way."""
    return _moved(codes, codes.shape[0], codes.shape[1] // bits, bits, flip).flatten()


def restore_codes(
    arranged: UInt8[Tensor, "n"], rows: int, columns: int, bits: int, flip: int
) -> UInt8[Tensor, "rows bytes"]:
    """From the layout to canonical codes."""
    cells = row_bytes(columns, bits) // bits
    return _moved(arranged, rows, cells, bits, flip, restore=True).view(rows, cells * bits)


def arrange_grid(grid: Float[Tensor, "rows groups"]) -> Float[Tensor, "n"]:
    """Scales, or whatever else each group has one of, those of a block's rows side by side."""
    whole = grid.shape[0] // LANES * LANES
    blocks = grid[:whole].unflatten(0, (-1, LANES)) if whole else grid[:0].unsqueeze(1)
    return torch.cat((blocks.transpose(1, 2).flatten(), grid[whole:].t().flatten()))


def restore_grid(arranged: Float[Tensor, "n"], rows: int) -> Float[Tensor, "rows groups"]:
    """What `arrange_grid` arranged."""
    groups, whole = len(arranged) // rows, rows // LANES * LANES
    blocks = arranged[: whole * groups].view(-1, groups, LANES).transpose(1, 2)
    rest = arranged[whole * groups :].view(groups, rows - whole).t()
    return torch.cat((blocks.reshape(whole, groups), rest))


def _moved(
    codes: Tensor, rows: int, cells: int, bits: int, flip: int, *, restore: bool = False
) -> Tensor:
    codes = codes.contiguous()
    moved = torch.empty(codes.numel(), dtype=torch.uint8)
    job = array("q", bytes(8 * fields.FIELDS))
    job[fields.CODES], job[fields.OUTPUT] = codes.data_ptr(), moved.data_ptr()
    job[fields.ROWS], job[fields.COLUMNS] = rows, cells * CELL
    job[fields.BITS], job[fields.FLIP] = bits, flip
    job[fields.RESTORE] = restore
    fields.run(_move(), job, rows * cells * CELL)
    return moved


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


@cache
def _move():
    stamp = STAMP

    @compiled()
    def move(address):
        _ = stamp
        job = int64_at(address, fields.FIELDS)
        rows, bits, flip = job[fields.ROWS], job[fields.BITS], job[fields.FLIP]
        cells = job[fields.COLUMNS] // CELL
        spans, rest = cells // CELLS, cells % CELLS
        arrange = job[fields.RESTORE] == 0
        source, target = job[fields.CODES], job[fields.OUTPUT]
        total, words_in_all = rows * cells * bits, rows * spans * bits
        packed = uint8_at(source if arrange else target, total)
        arranged = target if arrange else source
        words = int32_at(arranged, words_in_all)
        tails = uint8_at(arranged, total)
        codes = np.empty(SPAN, np.int64)
        while True:
            first = fetch_add(address + 8 * fields.COUNTER, 1) * LANES
            if first >= rows:
                break
            lanes = min(LANES, rows - first)
            tail = 4 * words_in_all + first * rest * bits
            for lane in range(lanes):
                row = (first + lane) * cells * bits
                for span in range(spans):
                    start = (first * spans + span * lanes) * bits
                    cell = row + span * CELLS * bits
                    if arrange:
                        read_cells(packed, cell, 1, bits, CELLS, flip, codes)
                        write_words(words, start, lanes, bits, lane, codes)
                    else:
                        read_words(words, start, lanes, bits, lane, flip, codes)
                        write_cells(packed, cell, 1, bits, CELLS, codes)
                cell = row + spans * CELLS * bits
                if arrange:
                    read_cells(packed, cell, 1, bits, rest, flip, codes)
                    write_cells(tails, tail + lane, lanes, bits, rest, codes)
                else:
                    read_cells(tails, tail + lane, lanes, bits, rest, flip, codes)
                    write_cells(packed, cell, 1, bits, rest, codes)

    return move
