"""Quantizers that begin where GPTQ ends, and go on from there."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Protocol, TypeAlias

from jaxtyping import Float, UInt8
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.plane import AbstractPlane, Grid
from bitplan.compress.planes import in_order, planes
from bitplan.compress.quantizers.gptq import codes_and_grids
from bitplan.compress.quantizers.rtn import clip
from bitplan.formats import Packed
from bitplan.schema import Scheme

Found: TypeAlias = tuple[UInt8[Tensor, "in rows"], list[Grid]]
"""Codes, and the grids of all groups."""

GoOn = Callable[[AbstractPlane, Tensor, Tensor, list[Grid], Curvature], Found]
"""(plane, weight as it was [in, rows], codes, grids, H) -> other codes and grids.

`plane.work` is what GPTQ has made of the weight, whose nearest codes are given. All of it may be
overwritten.
"""


class Begun(Protocol):
    """A quantizer, called as `gptq` is."""

    def __call__(
        self,
        weight: Float[Tensor, "out in"],
        schemes: Sequence[Scheme],
        curvature: Curvature | None = None,
        reach: Float[Tensor, ""] | None = None,
    ) -> list[Packed]:
        """Render one weight in several coded schemes; without H, as `clip`."""
        ...


def begun_by_gptq(go_on: GoOn) -> Begun:
    """The quantizer that goes on from GPTQ's codes and grids of each plane."""

    @wraps(go_on)
    def quantizer(
        weight: Tensor,
        schemes: Sequence[Scheme],
        curvature: Curvature | None = None,
        reach: Tensor | None = None,
    ) -> list[Packed]:
        if curvature is None:
            return clip(weight, schemes, reach=reach)
        found = []
        for plane in planes(weight, schemes, reach):
            original = plane.work.clone()
            codes, grids = codes_and_grids(plane, curvature.importance, curvature.inverse_factor)
            found += plane.packed(*go_on(plane, original, codes, grids, curvature))
        return in_order(found, schemes)

    return quantizer
