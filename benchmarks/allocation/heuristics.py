"""Plans without any measurement: uniform, and the first and last blocks in more bits."""

import itertools
from collections.abc import Sequence

from ground import WIDTHS, Assignment, Ground, scheme_of

from bitplan.schema import Layer

END_BITS = 8


class NoPlan(Exception):
    """A budget that is too small for what an arm insists on."""


def uniform(ground: Ground, bits: float) -> Assignment:
    """The two widths around the budget, evenly in turn: one width where the budget is one."""
    return _spread(ground, {}, bits)


def ends_high(ground: Ground, bits: float) -> Assignment:
    """The first and the last block in 8 bits, the others uniform in what that leaves."""
    blocks = [layer.block for layer in ground.layers if layer.block is not None]
    ends = {min(blocks), max(blocks)}
    fixed = {x.name: scheme_of(END_BITS) for x in ground.layers if x.block in ends}
    return _spread(ground, fixed, bits)


def _spread(ground: Ground, fixed: Assignment, bits: float) -> Assignment:
    """The largest even mixture of two neighbouring widths that fits beside what is fixed."""
    free = [layer for layer in ground.layers if layer.name not in fixed]
    for low, high in reversed(list(itertools.pairwise(WIDTHS))):
        for count in range(len(free), -1, -1):
            plan = {**fixed, **_in_turn(free, low, high, count)}
            if ground.size_of(plan) <= ground.budget(bits).total_bytes:
                return plan
    raise NoPlan(f"{bits:g} bits hold no even mixture beside what is fixed")


def _in_turn(layers: Sequence[Layer], low: int, high: int, count: int) -> Assignment:
    """As many layers in the higher width, evenly spaced, the first ones lower."""
    total = len(layers)
    return {
        layer.name: scheme_of(
            high if (index + 1) * count // total > index * count // total else low
        )
        for index, layer in enumerate(layers)
    }
