"""How the Triton kernels read weights of which some are kept: see `layout` for panels and cells.

A cell's columns are four eights. Column 4 h + j of the k-th is code 4 k + j of the cell's half h,
and lies in the panel where `layout` says; but R pairs of codes that follow each other are the
columns of a block of N:M, so code p of half h of cell c is, in a panel of C cells,

    column 2 C R (p / R) + 2 R c + 2 (p mod R) + h,  R = M / 2,

and a lane that has a cell has whole blocks. Where there are no blocks R is 1. What is stored of
either is told by `sparse_blocks` and `sparse_bits`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bitplan.formats import masks
from bitplan.formats.codes import pack_codes, unpack_codes
from bitplan.kernels.gpu import grids, sparse_bits, sparse_blocks
from bitplan.kernels.gpu.layout import ROWS_AT_ONCE, flip_of
from bitplan.schema import Scheme


def arrange(tensors: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From canonical tensors to the kernels': `codes`, `grid`, and what is beside them."""
    assert scheme.sparsity is not None
    rows, device = len(tensors["codes"]), tensors["codes"].device
    kind = sparse_blocks if scheme.sparsity.block else sparse_bits
    found = kind.empty(scheme, rows, columns, device)
    for some in _some_of(rows):
        mask = masks.unpack_mask(tensors["mask"][some], scheme.sparsity, columns)
        kept = scheme.sparsity.columns(columns)
        codes = unpack_codes(scheme, tensors["codes"][some], kept) ^ flip_of(scheme)
        kind.write(found, some, rows, masks.spread(codes, mask), mask, scheme)
    grid = grids.arrange_grid(tensors, scheme, columns)
    return {
        **found,
        "grid": grid,
        **grids.arrange_beside(tensors, replace(scheme, sparsity=None)),
    }


def restore(arranged: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From the kernels' tensors to the canonical ones."""
    assert scheme.sparsity is not None
    rows, parts = arranged["grid"].shape[1], []
    kind = sparse_blocks if scheme.sparsity.block else sparse_bits
    for some in _some_of(rows):
        dense, mask = kind.read(arranged, some, rows, columns, scheme)
        codes = masks.kept_of(dense, mask) ^ flip_of(scheme)
        parts.append((pack_codes(scheme, codes), masks.pack_mask(mask, scheme.sparsity)))
    codes, mask = (torch.cat(part) for part in zip(*parts, strict=True))
    return {
        "codes": codes,
        "mask": mask,
        **grids.restore_grid(arranged["grid"], scheme, columns),
        **grids.restore_beside(arranged, replace(scheme, sparsity=None)),
    }


def _some_of(rows: int) -> list[slice]:
    return [slice(first, min(first + ROWS_AT_ONCE, rows)) for first in range(0, rows, ROWS_AT_ONCE)]
