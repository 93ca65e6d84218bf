"""Codes of 1 to 8 bits, packed at their true width.

A row is padded to whole cells of 8 codes; a cell of B-bit codes takes B bytes, little-endian:
code j lies in bits j*B to (j+1)*B - 1. Two 4-bit codes share a byte, low half first.
"""

import sys

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

CELL = 8
"""Codes that are packed together: the fewest that fill whole bytes at every width."""

if sys.byteorder != "little":
    raise ImportError("bitplan packs codes through little-endian words; this machine is not.")


def row_bytes(columns: int, bits: int) -> int:
    """Bytes of one packed row."""
    return -(-columns // CELL) * bits


def pack(codes: UInt8[Tensor, "*rows columns"], bits: int) -> UInt8[Tensor, "*rows bytes"]:
    """Pack codes below 2^bits. Padding codes are zero.

    >>> pack(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 4).tolist()
    [[33, 3, 0, 0]]
    """
    *rows, columns = codes.shape
    cells = -(-columns // CELL)
    if columns % CELL:
        codes = torch.nn.functional.pad(codes, (0, cells * CELL - columns))
    if bits == 8:
        return codes.clone(memory_format=torch.contiguous_format)
    flat = codes.reshape(-1)
    if flat.storage_offset() % CELL or not flat.is_contiguous():  # a word is eight whole bytes
        flat = flat.clone(memory_format=torch.contiguous_format)
    words = _gather(flat.view(torch.int64), bits)
    if bits in _WORDS:
        packed = words.to(_WORDS[bits]).view(torch.uint8)
    else:
        packed = words.view(torch.uint8).view(-1, CELL)[:, :bits].contiguous()
    return packed.view(*rows, cells * bits)


def unpack(
    packed: UInt8[Tensor, "*rows bytes"], bits: int, columns: int
) -> UInt8[Tensor, "*rows columns"]:
    """The codes that `pack` packed.

    >>> unpack(torch.tensor([[33, 3, 0, 0]], dtype=torch.uint8), 4, 3).tolist()
    [[1, 2, 3]]
    """
    *rows, _ = packed.shape
    if bits == 8:
        return packed[..., :columns]
    cells = packed.reshape(*rows, -(-columns // CELL), bits)
    if bits in _WORDS:
        words = cells.contiguous().view(_WORDS[bits]).squeeze(-1).to(torch.int64)
    else:
        padded = torch.nn.functional.pad(cells, (0, CELL - bits))
        words = padded.contiguous().view(torch.int64).squeeze(-1)
    return _spread(words, bits).unsqueeze(-1).view(torch.uint8).flatten(-2)[..., :columns]


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
"""Widths at which a cell is a word of its own; what a sign fills above it is masked off."""


def _gather(words: Int64[Tensor, "*cells"], bits: int) -> Int64[Tensor, "*cells"]:
    """Move the 8 codes in the bytes of each word to its low bits: the way back from `_spread`."""
    for codes in (1, 2, 4):
        run, room = codes * bits, codes * 8
        low = sum(((1 << run) - 1) << start for start in range(0, 64, 2 * room))
        moved = (words >> (room - run)).bitwise_and_(low << run)
        words = (words & low).bitwise_or_(moved)
    return words


def _spread(words: Int64[Tensor, "*cells"], bits: int) -> Int64[Tensor, "*cells"]:
    """Move the 8 codes in the low bits of each word to a byte each.

    Half of the codes, then half of each half, move up to where they belong, all at once.
    """
    for codes in (4, 2, 1):
        run, room = codes * bits, codes * 8
        low = sum(((1 << run) - 1) << start for start in range(0, 64, 2 * room))
        moved = (words << (room - run)).bitwise_and_(low << room)
        words = (words & low).bitwise_or_(moved)
    return words
