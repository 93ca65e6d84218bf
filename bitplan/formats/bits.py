"""Codes of 1 to 8 bits, packed at their true width.

A row is padded to whole cells of 8 codes; a cell of B-bit codes takes B bytes, little-endian:
code j lies in bits j*B to (j+1)*B - 1. Two 4-bit codes share a byte, low half first.
"""

import sys

import torch
from jaxtyping import UInt8
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
    codes = codes.reshape(*rows, cells, CELL)
    words = torch.zeros(*rows, cells, dtype=torch.int64, device=codes.device)
    for lane in range(CELL):
        words |= codes[..., lane].to(torch.int64) << (lane * bits)
    cells_of_bytes = words.unsqueeze(-1).view(torch.uint8)[..., :bits]
    return cells_of_bytes.reshape(*rows, cells * bits).contiguous()


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
    # Four 1- to 4-byte cells' bits fit an int32 word, wider cells need an int64.
    width, dtype = (4, torch.int32) if bits <= 4 else (8, torch.int64)
    if bits < width:
        cells = torch.nn.functional.pad(cells, (0, width - bits))
    words = cells.contiguous().view(dtype).squeeze(-1)
    codes = torch.empty(*words.shape, CELL, dtype=torch.uint8, device=packed.device)
    mask = (1 << bits) - 1
    for lane in range(CELL):
        codes[..., lane] = (words >> (lane * bits)) & mask
    return codes.flatten(-2)[..., :columns]
