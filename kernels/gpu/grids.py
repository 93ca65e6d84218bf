"""How the Triton kernels read what groups have: a grid of scales and offsets, and what is beside.

A grid is [groups, rows, F], of F numbers: a scale, or a scale and an offset, as they are stored.
Where several groups' fill a word of 32 bits, and none is left over, it is [groups / P, rows, P F],
for only whole words are read ahead; a scale alone is [groups, rows]. Of two planes that of the
first is followed by that of the second.
"""

import torch
from torch import Tensor

from bitplan.formats import MATRIX_SCALE
from bitplan.formats.bits import row_bytes
from bitplan.formats.double import STEP
from bitplan.formats.scales import CHOICE_BITS
from bitplan.formats.two_planes import SECOND
from bitplan.kernels.gpu.kept import kept_of
from bitplan.schema import Scheme

CHOICE = "choice"
"""Name of the tensor of groups' choices among codebooks."""


def names_of(scheme: Scheme, plane: int = 0) -> tuple[str, ...]:
    """The canonical tensors that a plane's grid is made of."""
    scale = SECOND if plane else "scale"
    return (scale,) if scheme.symmetric else (scale, "offset")


def beside_of(scheme: Scheme, plane: int = 0) -> dict[str, str]:
    """The tensors that a plane has beside codes and grid, by the kernel's parameters.

    Canonical ones: what multiplies numbers of the grid, of the matrix or of a row; and the groups'
    choices. And what says which weights are kept.

    >>> beside_of(Scheme.parse("ternary2g64d"), 1)
    {'scale_step': 'second_step'}
    """
    found: dict[str, str] = {}
    if scheme.double:
        steps = [name + STEP for name in names_of(scheme, plane)]
        found |= zip(("scale_step", "offset_step"), steps, strict=False)
    if scheme.family.matrix_bytes:
        found[MATRIX_SCALE] = MATRIX_SCALE
    if scheme.family.choices > 1:
        found["choices"] = CHOICE
    return found | kept_of(scheme).parts


def all_beside(scheme: Scheme) -> tuple[str, ...]:
    """Those of every plane.

    >>> all_beside(Scheme.parse("int4g64d"))
    ('scale_step', 'offset_step')
    """
    planes = range(scheme.family.planes)
    return tuple(name for plane in planes for name in beside_of(scheme, plane).values())


def arrange_beside(tensors: dict[str, Tensor], scheme: Scheme) -> dict[str, Tensor]:
    """From canonical tensors to those that the kernels read; choices as words [words, rows]."""
    found = {name: tensors[name] for name in all_beside(scheme)}
    if scheme.family.choices > 1:
        packed = found[CHOICE].contiguous()
        words = packed.view(torch.int16 if packed.shape[1] % 4 else torch.int32)
        found[CHOICE] = words.t().contiguous()
    return found


def restore_beside(arranged: dict[str, Tensor], scheme: Scheme) -> dict[str, Tensor]:
    """The way back from `arrange_beside`."""
    found = {name: arranged[name] for name in all_beside(scheme)}
    if scheme.family.choices > 1:
        found[CHOICE] = found[CHOICE].t().contiguous().view(torch.uint8)
    return found


def choices_in_word(scheme: Scheme, columns: int) -> int:
    """How many groups' choices share a word of them; 0 where there are none.

    >>> [choices_in_word(Scheme.parse("bitmod4g64"), n) for n in (512, 1024)]
    [8, 16]
    """
    if scheme.family.choices == 1:
        return 0
    groups = -(-columns // (scheme.group_size or columns))
    return 8 if row_bytes(groups, CHOICE_BITS) % 4 else 16


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
    per, planes = groups_in_word(scheme, columns), []
    for plane in range(scheme.family.planes):
        numbers = torch.stack([tensors[name].t() for name in names_of(scheme, plane)], dim=-1)
        planes.append(numbers.unflatten(0, (-1, per)).transpose(1, 2).flatten(2))
    grid = torch.cat(planes)
    return (grid if grid.shape[-1] > 1 else grid.squeeze(-1)).contiguous()


def restore_grid(grid: Tensor, scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From the grid to the canonical tensors that it was made of."""
    per, rows, found = groups_in_word(scheme, columns), grid.shape[1], {}
    for plane, numbers in enumerate(grid.chunk(scheme.family.planes)):
        names = names_of(scheme, plane)
        split = numbers.view(-1, rows, per, len(names)).transpose(1, 2).flatten(0, 1)
        found |= {name: split[..., n].t().contiguous() for n, name in enumerate(names)}
    return found


def words_of(grid: Tensor) -> Tensor:
    """What of a grid belongs together as one word, and single numbers as they are."""
    if grid.dim() == 2:
        return grid
    return grid.view(torch.uint32 if grid[0, 0].nbytes == 4 else torch.uint16)
