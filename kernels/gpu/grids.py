"""How the Triton kernels read scales and offsets: a grid by group, and what multiplies all of it.

A grid is [groups, rows, F], of F numbers: a scale, or a scale and an offset, as they are stored.
Where several groups' fill a word of 32 bits, and none is left over, it is [groups / P, rows, P F],
for only whole words are read ahead; a scale alone is [groups, rows].
"""

import torch
from torch import Tensor

from bitplan.formats import MATRIX_SCALE
from bitplan.formats.double import STEP
from bitplan.schema import Scheme


def names_of(scheme: Scheme) -> tuple[str, ...]:
    """The canonical tensors that a grid is made of."""
    return ("scale",) if scheme.symmetric else ("scale", "offset")


def factors_of(scheme: Scheme) -> tuple[str, ...]:
    """The canonical tensors that multiply numbers of the grid: of the matrix, or of a row.

    >>> factors_of(Scheme.parse("int4g64d"))
    ('scale_step', 'offset_step')
    """
    if scheme.double:
        return tuple(name + STEP for name in names_of(scheme))
    return (MATRIX_SCALE,) if scheme.family.matrix_bytes else ()


def groups_in_word(scheme: Scheme, columns: int) -> int:
    """How many groups share a word of the grid.

    >>> [groups_in_word(Scheme.parse("mxfp4"), n) for n in (256, 576)]
    [4, 1]
    """
    groups = -(-columns // (scheme.group_size or columns))
    number = 1 if scheme.double else scheme.family.scale_bytes
    per = 4 // (number * len(names_of(scheme)))
    return per if groups % per == 0 else 1


def arrange_grid(tensors: dict[str, Tensor], scheme: Scheme, columns: int) -> Tensor:
    """From canonical tensors to the grid."""
    numbers = torch.stack([tensors[name].t() for name in names_of(scheme)], dim=-1)
    per = groups_in_word(scheme, columns)
    grid = numbers.unflatten(0, (-1, per)).transpose(1, 2).flatten(2)
    return (grid if grid.shape[-1] > 1 else grid.squeeze(-1)).contiguous()


def restore_grid(grid: Tensor, scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From the grid to the canonical tensors that it was made of."""
    names, rows = names_of(scheme), grid.shape[1]
    split = grid.view(-1, rows, groups_in_word(scheme, columns), len(names))
    numbers = split.transpose(1, 2).flatten(0, 1)
    return {name: numbers[..., n].t().contiguous() for n, name in enumerate(names)}


def words_of(grid: Tensor) -> Tensor:
    """What of a grid belongs together as one word, and single numbers as they are."""
    if grid.dim() == 2:
        return grid
    return grid.view(torch.uint32 if grid[0, 0].nbytes == 4 else torch.uint16)
