"""How the Triton kernels read N:M sparse weights: see `sparse_layout`.

The codes that are kept of a cell, eight by eight, are dealt out to four streams, which are the
bytes of its words: one shift and one mask take out four. What fills no whole word, and then, bit by
bit, the numbers of all blocks' patterns are the cell's tail, of 8, 16, 32 bits and their sums.
Block b of the k-th eight has bit 4 b + k of each bit of the numbers. Tails are padded to whole
bytes: 4 bits of 32 weights, where there is an odd number of nibbles.

All are [panel, word of the cell, row, cell]. Bytes are read two cells at a time: one beside each of
a panel of a single cell is padding.
"""

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from bitplan.formats.masks import numbers_of_patterns, patterns
from bitplan.kernels.gpu.eights import eights_of, row_of, signed
from bitplan.kernels.gpu.kept import EIGHTS, Kept, kept_of
from bitplan.kernels.gpu.layout import CELL, parts_of_rows, sections
from bitplan.schema import Scheme


def empty(scheme: Scheme, rows: int, columns: int, device: torch.device) -> dict[str, Tensor]:
    """The tensors that rows are written to."""
    kept, cells = kept_of(scheme), rows * columns // CELL
    found = {"codes": torch.empty(cells * kept.words, dtype=torch.int32, device=device)}
    if kept.has_half:
        found["mask16"] = torch.empty(cells, dtype=torch.int16, device=device)
    if kept.has_byte:
        size = rows * (cells // rows + cells // rows % 2)
        found["mask8"] = torch.zeros(size, dtype=torch.uint8, device=device)
    return found


def write(
    found: dict[str, Tensor],
    some: slice,
    rows: int,
    dense: UInt8[Tensor, "rows columns"],
    mask: Bool[Tensor, "rows columns"],
    scheme: Scheme,
) -> None:
    """Write some of the rows; `dense` has a code of each column, any where none is kept."""
    assert scheme.sparsity is not None
    kept, views = kept_of(scheme), _views(found, scheme, rows, dense.shape[1], some)
    codes_of, mask_of = eights_of(dense, kept.pairs), eights_of(mask, kept.pairs)
    for section, (eights, there) in enumerate(zip(codes_of, mask_of, strict=True)):
        codes = eights[there].view(*eights.shape[:3], kept.codes, 4).long()
        turns = int(scheme.bits) * torch.arange(kept.codes, device=codes.device)
        lanes = (codes << turns[:, None]).sum(-2)
        numbers = numbers_of_patterns(_blocks_of(there, kept.pairs), scheme.sparsity)
        _write_cells(views, section, lanes, numbers.flatten(3).long(), kept)


def read(
    arranged: dict[str, Tensor], some: slice, rows: int, columns: int, scheme: Scheme
) -> tuple[UInt8[Tensor, "rows columns"], Bool[Tensor, "rows columns"]]:
    """The way back from `write`."""
    assert scheme.sparsity is not None
    kept, width = kept_of(scheme), int(scheme.bits)
    views = _views(arranged, scheme, rows, columns, some)
    every = patterns(scheme.sparsity).to(arranged["codes"].device)
    dense, mask = [], []
    for section in range(len(sections(columns))):
        lanes, numbers = _read_cells(views, section, kept)
        turns = width * torch.arange(kept.codes, device=lanes.device)
        codes = (lanes.unsqueeze(-2) >> turns[:, None]) & ((1 << width) - 1)
        there = _eights_of_blocks(every[numbers.unflatten(-1, (-1, EIGHTS))], kept.pairs)
        eights = torch.zeros(there.shape, dtype=torch.uint8, device=lanes.device)
        eights[there] = codes.flatten().to(torch.uint8)
        dense.append(eights)
        mask.append(there)
    return row_of(dense, kept.pairs), row_of(mask, kept.pairs)


def _blocks_of(
    eights: Bool[Tensor, "*cells 4 8"], pairs: int
) -> Bool[Tensor, "*cells blocks 4 block"]:
    """[..., block of an eight, eight, column of the block]."""
    split = eights.unflatten(-1, (2, -1, pairs))  # eight, half, block, pair
    return split.movedim(-2, -4).transpose(-1, -2).flatten(-2)


def _eights_of_blocks(
    blocks: Bool[Tensor, "*cells blocks 4 block"], pairs: int
) -> Bool[Tensor, "*cells 4 8"]:
    """The way back from `_blocks_of`."""
    split = blocks.unflatten(-1, (pairs, 2)).transpose(-1, -2)  # block, eight, half, pair
    return split.movedim(-4, -2).flatten(-3)


def _write_cells(
    views: dict[str, list[Tensor]],
    section: int,
    lanes: Int64[Tensor, "rows panels cells 4"],
    numbers: Int64[Tensor, "rows panels cells blocks"],
    kept: Kept,
) -> None:
    """The words of lanes' streams, and of the tail."""
    lane, block = (torch.arange(n, device=lanes.device) for n in (4, numbers.shape[-1]))
    words = [((lanes >> 8 * word & 0xFF) << 8 * lane).sum(-1) for word in range(kept.whole)]
    tail = ((lanes >> 8 * kept.whole) << kept.rest * lane).sum(-1)
    for bit, first in enumerate(_places(kept, len(block))):
        tail |= ((numbers >> bit & 1) << first + block).sum(-1)
    if kept.has_word:
        words.append(tail & 0xFFFFFFFF)
        tail = tail >> 32
    for word, number in enumerate(words):
        views["codes"][section][:, word].copy_(signed(number, 32).transpose(0, 1))
    if kept.has_half:
        views["mask16"][section][:, 0].copy_(signed(tail & 0xFFFF, 16).transpose(0, 1))
        tail = tail >> 16
    if kept.has_byte:
        views["mask8"][section].copy_(tail.transpose(0, 1))


def _read_cells(
    views: dict[str, list[Tensor]], section: int, kept: Kept
) -> tuple[Int64[Tensor, "rows panels cells 4"], Int64[Tensor, "rows panels cells blocks"]]:
    """The way back from `_write_cells`."""
    words = [views["codes"][section][:, word].long() & 0xFFFFFFFF for word in range(kept.words)]
    tail, filled = torch.zeros_like(words[0]), 0
    if kept.has_word:
        tail, filled = words.pop(), 32
    if kept.has_half:
        tail = tail | (views["mask16"][section][:, 0].long() & 0xFFFF) << filled
        filled += 16
    if kept.has_byte:
        tail = tail | views["mask8"][section].long() << filled
    blocks = 16 // kept.pairs
    lane, block = (torch.arange(n, device=tail.device) for n in (4, blocks))
    tail = tail.unsqueeze(-1)
    lanes = (tail >> kept.rest * lane & (1 << kept.rest) - 1) << 8 * kept.whole
    for number, word in enumerate(words):
        lanes = lanes | (word.unsqueeze(-1) >> 8 * lane & 0xFF) << 8 * number
    numbers = torch.zeros_like(tail)
    for bit, first in enumerate(_places(kept, blocks)):
        numbers = numbers | (tail >> first + block & 1) << bit
    return lanes.transpose(0, 1), numbers.transpose(0, 1)


def _places(kept: Kept, blocks: int) -> range:
    """The first bits of a tail that have the numbers' first, second and further bits."""
    first = EIGHTS * kept.rest
    return range(first, first + kept.pattern_bits * blocks, blocks)


def _views(
    found: dict[str, Tensor], scheme: Scheme, rows: int, columns: int, some: slice
) -> dict[str, list[Tensor]]:
    """Of each tensor the sections, [panels, words, those rows, cells]; of bytes without words."""
    kept = kept_of(scheme)
    counts = {"codes": kept.words} | ({"mask16": 1} if kept.has_half else {})
    views = {
        name: [view[:, :, some] for view in parts_of_rows(found[name], rows, columns, count)]
        for name, count in counts.items()
    }
    if kept.has_byte:
        views["mask8"], start = [], 0
        for _, cells, panels in sections(columns):
            width = cells + cells % 2
            part = found["mask8"][start : start + panels * rows * width]
            views["mask8"].append(part.view(panels, rows, width)[:, some, :cells])
            start += len(part)
    return views
