"""From canonical codes and scales to the layout of compiled loops, and back, exactly."""

from array import array
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitplan.formats.bits import CELL, row_bytes
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.compiled import STAMP, compiled
from bitplan.kernels.native.layout import (
    CELLS,
    LANES,
    SPAN,
    read_cells,
    read_words,
    write_cells,
    write_words,
)
from bitplan.kernels.native.memory import fetch_add, int32_at, int64_at, uint8_at
from bitplan.kernels.native.quads import read_quads, write_quads


def arrange_codes(
    codes: UInt8[Tensor, "rows bytes"], bits: int, flip: int = 0, *, quads: bool = False
) -> UInt8[Tensor, "n"]:
    """From canonical codes to the layout; `flip` is a mask of bits that are inverted on the way."""
    rows, cells = codes.shape[0], codes.shape[1] // bits
    return _moved(codes, rows, cells, bits, flip, quads=quads).flatten()


def restore_codes(
    arranged: UInt8[Tensor, "n"],
    rows: int,
    columns: int,
    bits: int,
    flip: int = 0,
    *,
    quads: bool = False,
) -> UInt8[Tensor, "rows bytes"]:
    """From the layout to canonical codes."""
    cells = row_bytes(columns, bits) // bits
    moved = _moved(arranged, rows, cells, bits, flip, quads=quads, restore=True)
    return moved.view(rows, cells * bits)


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
    codes: Tensor,
    rows: int,
    cells: int,
    bits: int,
    flip: int,
    *,
    quads: bool,
    restore: bool = False,
) -> Tensor:
    codes = codes.contiguous()
    moved = torch.empty(codes.numel(), dtype=torch.uint8)
    job = array("q", bytes(8 * fields.FIELDS))
    job[fields.CODES], job[fields.OUTPUT] = codes.data_ptr(), moved.data_ptr()
    job[fields.ROWS], job[fields.COLUMNS] = rows, cells * CELL
    job[fields.BITS], job[fields.FLIP] = bits, flip
    job[fields.RESTORE], job[fields.QUADS] = restore, quads
    fields.run(_move(), job, rows * cells * CELL)
    return moved


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
        arrange, quads = job[fields.RESTORE] == 0, job[fields.QUADS] != 0
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
                        if quads:
                            write_quads(words, start, lanes, bits, lane, codes)
                        else:
                            write_words(words, start, lanes, bits, lane, codes)
                    else:
                        if quads:
                            read_quads(words, start, lanes, bits, lane, codes)
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
