"""A matrix some rows at a time: what a quantizer makes of each, joined."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.formats import MATRIX_SCALE, Packed
from bitplan.schema import Scheme

Quantizer = Callable[[Tensor, Sequence[Scheme], Curvature | None, Tensor | None], list[Packed]]
"""(some rows of a weight [out, in], coded schemes, H, the largest absolute value of all rows)
-> the packed rows for each scheme"""

ROWS_AT_ONCE = 16384
WEIGHTS_AT_ONCE = 1 << 26
"""Rows and weights, over all schemes, that are rendered together: they bound the memory taken."""


def by_rows(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    quantizer: Quantizer,
    curvature: Curvature | None = None,
) -> list[Packed]:
    """The weight in each of some plain coded schemes."""
    if not schemes:
        return []
    reach = reach_of(weight)
    parts = [
        quantizer(weight[rows], schemes, curvature, reach)
        for rows in slices(weight.shape, len(schemes))
    ]
    if len(parts) == 1:
        return parts[0]
    return [joined(pieces) for pieces in zip(*parts, strict=True)]


def reach_of(weight: Float[Tensor, "out in"]) -> Float[Tensor, ""]:
    """The largest absolute value."""
    low, high = torch.aminmax(weight)
    return torch.maximum(-low, high).float()


def slices(shape: Sequence[int], copies: int = 1) -> Iterator[slice]:
    """Rows of a matrix [out, in] that may be held at once, in so many copies."""
    count, columns = shape
    at_once = min(ROWS_AT_ONCE, WEIGHTS_AT_ONCE // columns)
    step = max(1, at_once // copies)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def joined(parts: Sequence[Packed]) -> Packed:
    """Rows of one matrix as one."""
    first = parts[0]
    tensors = {name: torch.cat([p.tensors[name] for p in parts]) for name in first.tensors}
    if MATRIX_SCALE in first.tensors:
        tensors[MATRIX_SCALE] = first.tensors[MATRIX_SCALE]  # of all rows
    shape = (sum(part.shape[0] for part in parts), first.shape[1])
    return Packed(scheme=first.scheme, shape=shape, tensors=tensors)
