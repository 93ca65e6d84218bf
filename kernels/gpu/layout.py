"""How the Triton kernels read codes: panels of words; of scales see `grids`, of ternary `trits`.

A row is cut into panels of 256 columns; what remains, a multiple of 32, into at most one panel
each of 128, 64 and 32. A panel of 32 C columns has C cells, a cell has 32 codes, and 32 codes of B
bits are exactly B words of 32 bits. Within a cell, the lower halves of the words hold 16 codes and
the upper halves 16 others, each as a stream of bits of its own. Code p of half h of cell c is

    column 2 C p + 2 c + h

of the panel. So the p-th code of both halves of all cells are 2 C neighbouring columns, in one
group of the grid, and a kernel takes both halves out by one shift and one mask of the whole word:
a pair of 16-bit numbers, side by side as tensor cores take them.

Words are stored as [panel, word of the cell, row, cell]: what a kernel reads at once lies together.
"""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from bitplan.formats import pack, unpack
from bitplan.kernels.gpu import trits
from bitplan.kernels.gpu.grids import arrange_beside, arrange_grid, restore_beside, restore_grid
from bitplan.kernels.gpu.kept import kept_of
from bitplan.schema import Scheme

CELL = 32
"""Columns of a cell."""

PAIRS = 16
"""Codes in one half of a cell's words."""

SECTIONS = (8, 4, 2, 1)
"""Cells of a panel. The first there are any number of, of each other at most one."""

PANEL = SECTIONS[0] * CELL
"""Columns of a whole panel."""

ROWS_AT_ONCE = 4096
"""Rows that are arranged together: bounds the memory that it takes."""


def sections(columns: int) -> list[tuple[int, int, int]]:
    """(first column, cells of a panel, panels) of each section of a row.

    >>> sections(576)
    [(0, 8, 2), (512, 2, 1)]
    """
    found, start = [], 0
    for cells in SECTIONS:
        panels = (columns - start) // (cells * CELL)
        if panels:
            found.append((start, cells, panels))
            start += panels * cells * CELL
    return found


def arrange(tensors: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From canonical tensors to the kernels': `codes` (int32), `grid`, and what is beside it.

    The words of a second plane follow those of the first.
    """
    assert columns % CELL == 0
    planes = tensors["codes"].chunk(scheme.family.planes, dim=-1)
    words = torch.cat([_words(plane, scheme, columns) for plane in planes])
    grid = arrange_grid(tensors, scheme, columns)
    return {"codes": words, "grid": grid, **arrange_beside(tensors, scheme)}


def restore(arranged: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From the kernels' tensors to the canonical ones."""
    grid, planes = arranged["grid"], arranged["codes"].chunk(scheme.family.planes)
    packed = [_packed(words, scheme, grid.shape[1], columns) for words in planes]
    codes = torch.cat(packed, dim=-1)
    return {
        "codes": codes,
        **restore_grid(grid, scheme, columns),
        **restore_beside(arranged, scheme),
    }


def bits_of(scheme: Scheme) -> int:
    """Of a code in one plane, and words of a whole panel's cell; of ternary codes the words.

    >>> [bits_of(Scheme.parse(name)) for name in ("int3g64", "binary2g64", "ternary2")]
    [3, 1, 2]
    """
    family = scheme.family
    return trits.WORDS if family.is_ternary else int(family.bits) // family.planes


def panel_of(scheme: Scheme) -> int:
    """Columns of a whole panel."""
    return trits.PANEL if scheme.family.is_ternary else PANEL


def words_of(scheme: Scheme, columns: int) -> int:
    """Words of a row, of all planes.

    >>> [words_of(Scheme.parse(name), 320) for name in ("int3g64", "ternary2", "int4+2:4")]
    [30, 32, 20]
    """
    if scheme.sparsity:
        return columns // CELL * kept_of(scheme).words
    if scheme.family.is_ternary:
        return scheme.family.planes * trits.words_of(columns)
    return columns // CELL * int(scheme.bits)


def room_of(scheme: Scheme, words: int) -> int:
    """Columns that so many words of a row have room for: the way back from `words_of`."""
    if scheme.sparsity:
        return words // kept_of(scheme).words * CELL
    if scheme.family.is_ternary:
        return words // scheme.family.planes // trits.CELLS * trits.COLUMNS_OF_WORD
    return words * CELL // int(scheme.bits)


def _words(packed: UInt8[Tensor, "rows bytes"], scheme: Scheme, columns: int) -> Tensor:
    """A plane's words of its packed codes."""
    if scheme.family.is_ternary:
        return trits.arrange(packed, columns)
    bits, rows = bits_of(scheme), len(packed)
    words = packed.new_empty(rows * columns // CELL * bits, dtype=torch.int32)
    for some, parts in _parts(words, rows, columns, bits):
        codes = unpack(packed[some], bits, columns) ^ flip_of(scheme)
        for (start, cells, panels), part in zip(sections(columns), parts, strict=True):
            shape = (len(codes), panels, PAIRS, cells, 2)
            columns_of = codes[:, start : start + panels * cells * CELL].reshape(shape)
            part.copy_(_join(columns_of, bits))
    return words


def _packed(words: Tensor, scheme: Scheme, rows: int, columns: int) -> UInt8[Tensor, "rows bytes"]:
    """The way back from `_words`."""
    if scheme.family.is_ternary:
        return trits.restore(words, rows, columns)
    bits, packed = bits_of(scheme), []
    for _, parts in _parts(words, rows, columns, bits):
        codes = torch.cat([_split(part, bits).flatten(1) for part in parts], dim=1)
        packed.append(pack(codes ^ flip_of(scheme), bits))
    return torch.cat(packed)


def flip_of(scheme: Scheme) -> int:
    """Bits of a code that are stored the other way round.

    Block floating point's two's complement becomes offset binary, and a sign's 0 is its plus.
    """
    if scheme.format == "bfp":
        return 2 ** (int(scheme.bits) - 1)
    return 1 if scheme.format == "sign" else 0


def parts_of_rows(words: Tensor, rows: int, columns: int, count: int) -> list[Tensor]:
    """Of every section the view [panels, words of a cell, rows, cells], `count` words a cell."""
    views, start = [], 0
    for _, cells, panels in sections(columns):
        size = panels * count * rows * cells
        views.append(words[start : start + size].view(panels, count, rows, cells))
        start += size
    return views


def _parts(words: Tensor, rows: int, columns: int, bits: int):
    """Some rows, and of every section the view [panels, bits, those rows, cells] of its words."""
    views = parts_of_rows(words, rows, columns, bits)
    for first in range(0, rows, ROWS_AT_ONCE):
        some = slice(first, min(first + ROWS_AT_ONCE, rows))
        yield some, [view[:, :, some] for view in views]


def _join(codes: UInt8[Tensor, "rows panels 16 cells 2"], bits: int) -> Tensor:
    """Words [panels, bits, rows, cells] of codes."""
    halves: list[Int64[Tensor, "rows panels cells 2"]] = [
        torch.zeros_like(codes[:, :, 0], dtype=torch.int64) for _ in range(bits)
    ]
    for pair in range(PAIRS):
        word, start = divmod(pair * bits, 16)
        code = codes[:, :, pair].to(torch.int64)
        halves[word] |= (code << start) & 0xFFFF
        if start + bits > 16:
            halves[word + 1] |= code >> (16 - start)
    words = torch.stack(halves)
    joined = (words[..., 0] | (words[..., 1] << 16)).to(torch.int32)
    return joined.permute(2, 0, 1, 3)


def _split(words: Tensor, bits: int) -> UInt8[Tensor, "rows panels 16 cells 2"]:
    """Codes of words [panels, bits, rows, cells]."""
    whole = words.permute(1, 2, 0, 3).to(torch.int64)
    halves = torch.stack((whole & 0xFFFF, (whole >> 16) & 0xFFFF), dim=-1)
    codes = []
    for pair in range(PAIRS):
        word, start = divmod(pair * bits, 16)
        code = halves[word] >> start
        if start + bits > 16:
            code |= halves[word + 1] << (16 - start)
        codes.append((code & (2**bits - 1)).to(torch.uint8))
    return torch.stack(codes, dim=2)
