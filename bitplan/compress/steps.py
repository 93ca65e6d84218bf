"""The steps of scales and offsets that are codes, from the grids that cover the groups."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.plane import Grid
from bitplan.compress.stored import AsCodes
from bitplan.formats import double

Steps = dict[str, Float[Tensor, "rows blocks"]]
"""`scale`, and `offset` or `second` where there is one."""


def steps_of(
    cover: Callable[[slice], Grid],
    columns: int,
    group: int,
    names: tuple[str, ...] = ("scale", "offset"),
) -> Steps:
    """Steps with which the largest scale, and the largest offset, of each block can be told.

    `names` are those of a grid's numbers, in order.
    """
    most = {name: double.MOST - double.CENTRES[name] for name in names}
    found: dict[str, list[Tensor]] = {}
    for block in range(0, columns, group * double.SHARED):
        stop = min(block + group * double.SHARED, columns)
        grids = [
            cover(slice(start, min(start + group, columns))) for start in range(block, stop, group)
        ]
        for name, numbers in zip(most, zip(*grids, strict=True), strict=False):
            reach = torch.stack(numbers).abs_().amax(0)
            found.setdefault(name, []).append(double.step_for(reach, most[name]))
    return {name: torch.stack(steps, dim=1) for name, steps in found.items()}


def stored_in(steps: Steps, group: slice, size: int) -> AsCodes:
    """How scales and offsets of a group of `size` columns are stored."""
    block = group.start // (size * double.SHARED)
    of_block = {f"{name}_step": of_all[:, block] for name, of_all in steps.items()}
    return AsCodes(**of_block)
