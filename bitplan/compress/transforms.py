"""Changes of a model that leave its outputs, and make its weights lose less when they are rounded.

They are folded into the weights, so nothing is added when the model runs. `awq` scales the channels
between neighbours, as `bitplan.compress.scales` finds; `omniquant` scales them, and shifts them
where biases can take it, as `bitplan.tune.equivalent` learns. `hadamard` rotates them: the channels
of each head between values and output, and the residual stream where nothing is in the way
(QuaRot, Ashkboos et al., 2024; R2 and R1 of SpinQuant, Liu et al., 2024).
"""

import logging
from collections.abc import Mapping

from torch import Tensor, nn

from bitplan.errors import InputError
from bitplan.models import (
    Change,
    change_group,
    find_neighbours,
    random_rotation,
    rotate_heads,
    rotate_stream,
    rows_of,
    why_no_stream,
)
from bitplan.names import AWQ, HADAMARD, OMNIQUANT, check_transform

log = logging.getLogger(__name__)

_FOUND_BY = {AWQ: "search_scales", OMNIQUANT: "bitplan.tune.learn_equivalents"}
"""Scales that channels are divided by."""


def fold(
    model: nn.Module,
    transform: str,
    *,
    scales: Mapping[str, Tensor] | None = None,
    shifts: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Change a model in place into one of the same outputs, up to the rounding of its own dtype.

    Args:
        model: a causal language model of transformers, of a type that `find_neighbours` knows.
        transform: one of `TRANSFORMS`.
        scales: of `search_scales`, for "awq"; of `bitplan.tune.learn_equivalents`, for "omniquant".
        shifts: of the latter, where there are some.
        seed: of the signs of "hadamard".

    Raises:
        InputError: an unknown transform, or one that is by scales without them.
        ModelError: a model whose neighbours are not known, or with a width, or heads, of a size
            that no rotation is known for.
    """
    check_transform(transform)
    if transform in _FOUND_BY:
        if scales is None:
            raise InputError(f'"{transform}" is by scales: give those of `{_FOUND_BY[transform]}`.')
        shifts = shifts or {}
        for group in find_neighbours(model).groups:
            change = Change(scale=scales[group.maker], shift=shifts.get(group.maker))
            change_group(model, group, change)
    if transform == HADAMARD:
        _rotate(model, seed)
    return model


def _rotate(model: nn.Module, seed: int) -> None:
    found = find_neighbours(model)
    head = next(group.head for group in found.groups if group.head is not None)
    of_heads = random_rotation(head, seed=seed)  # before anything is changed
    if reason := why_no_stream(model, found.stream):
        log.warning("Only the heads are rotated, not the residual stream: %s.", reason)
    else:
        assert found.stream is not None
        width = rows_of(model, found.stream.embedding).shape[1]
        rotate_stream(model, found.stream, random_rotation(width, seed=seed + 1))
    rotate_heads(model, found, of_heads)
