"""Runs of eight columns, the order in which the Triton kernels find what is kept.

See `sparse_layout`.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from bitplan.kernels.gpu.kept import EIGHTS
from bitplan.kernels.gpu.layout import CELL, PAIRS, sections


def eights_of(row: Tensor, pairs: int) -> list[Tensor]:
    """Of each section [rows, panels, cells, 4, 8] of [rows, columns]."""
    found = []
    for start, cells, panels in sections(row.shape[1]):
        part = row[:, start : start + panels * cells * CELL]
        split = part.reshape(len(row), panels, PAIRS // pairs, cells, pairs, 2)
        halves = split.permute(0, 1, 3, 2, 4, 5).reshape(len(row), panels, cells, EIGHTS, 4, 2)
        found.append(halves.transpose(-1, -2).flatten(-2))
    return found


def row_of(eights: list[Tensor], pairs: int) -> Tensor:
    """The way back from `eights_of`."""
    found = []
    for part in eights:
        rows, panels, cells = part.shape[:3]
        halves = part.unflatten(-1, (2, 4)).transpose(-1, -2)
        split = halves.reshape(rows, panels, cells, PAIRS // pairs, pairs, 2)
        found.append(split.permute(0, 1, 3, 2, 4, 5).reshape(rows, -1))
    return torch.cat(found, dim=1)


def signed(number: Int64[Tensor, "*n"], width: int) -> Int64[Tensor, "*n"]:
    """What an integer of so many bits is as one with a sign.

    >>> signed(torch.tensor([1, 0xFFFF]), 16).tolist()
    [1, -1]
    """
    return number - ((number >> (width - 1)) << width)
