"""Weights that make up for those left out (Boža, 2024), rounded by `gptq`: dense schemes get that.

What is left out is chosen, and the weights are moved, before the first is rounded; GPTQ then
spreads rounding errors alone.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.planes import once
from bitplan.compress.quantizers.gptq import gptq
from bitplan.compress.sparsifiers import admm as solved
from bitplan.formats import Packed
from bitplan.schema import Scheme, Sparsity


def admm(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
) -> list[Packed]:
    """Render one weight in several coded schemes; without H, as `clip`."""
    if curvature is None:
        return gptq(weight, schemes, reach=reach)

    def solve(work: Tensor, sparsity: Sparsity) -> tuple[Tensor, Tensor]:
        return solved(work, sparsity, curvature.matrix)

    return gptq(weight, schemes, curvature, reach, prune=once(solve, len(weight)))
