"""The planes that a weight is rendered on: schemes that go together share one."""

from collections.abc import Callable, Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from bitplan.compress.codebook_plane import CodebookPlane
from bitplan.compress.grid import LANES
from bitplan.compress.integer_plane import IntegerPlane
from bitplan.compress.mixed_plane import MixedPlane
from bitplan.compress.plane import AbstractPlane
from bitplan.compress.two_plane import TwoPlane
from bitplan.formats import Packed
from bitplan.schema import Scheme, Sparsity

Prune = Callable[[AbstractPlane, Sparsity], None]
"""Chooses what is kept of a plane's weights, and may change those."""


def planes(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    reach: Float[Tensor, ""] | None = None,
) -> Iterator[AbstractPlane]:
    """One for integer schemes of a group size, sparsity and kind of scales, one for any other.

    `reach` is the largest absolute value of the matrix that the weight is some rows of; None: of
    the weight.
    """
    alike: dict[tuple[int | None, Sparsity | None, bool], list[Scheme]] = {}
    for scheme in schemes:
        if scheme.is_integer:
            key = scheme.group_size, scheme.sparsity, scheme.double
            alike.setdefault(key, []).append(scheme)
    for together in alike.values():
        yield IntegerPlane(weight, together)
    for scheme in schemes:
        if not scheme.is_integer and scheme.family.choices > 1:
            yield MixedPlane(weight, scheme)
        elif not scheme.is_integer and scheme.family.planes > 1:
            yield TwoPlane(weight, scheme)
        elif not scheme.is_integer:
            yield CodebookPlane(weight, scheme, reach)


def in_order(packed: Sequence[Packed], schemes: Sequence[Scheme]) -> list[Packed]:
    """Weights in the order of their schemes."""
    by_scheme = {one.scheme: one for one in packed}
    return [by_scheme[scheme] for scheme in schemes]


def once(solve: Callable[[Tensor, Sparsity], tuple[Tensor, Tensor]], rows: int) -> Prune:
    """What prunes each plane of a weight, having solved for each sparsity but once.

    `solve` gives the weights [in, rows] that come of some, and what is kept of them.
    """
    stride = rows + -rows % LANES
    solved: dict[Sparsity, tuple[Tensor, Tensor]] = {}

    def prune(plane: AbstractPlane, sparsity: Sparsity) -> None:
        if sparsity not in solved:
            solved[sparsity] = solve(plane.work[:, :stride].clone(), sparsity)
        copies = plane.work.shape[1] // stride
        work, mask = (tensor.repeat(1, copies) for tensor in solved[sparsity])
        plane.work.copy_(work)
        plane.prune(mask)

    return prune
