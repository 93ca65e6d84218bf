"""Masks that iCBS (Rosenberg et al., 2024) betters, and weights that make up for what goes.

Rounded by `gptq`, as those of `admm`, with which it begins: dense schemes get that.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.planes import once
from bitplan.compress.quantizers.gptq import gptq
from bitplan.compress.sparsifiers import icbs as exchanged
from bitplan.formats import Packed
from bitplan.schema import Scheme, Sparsity


def icbs(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
) -> list[Packed]:
    """Render one weight in several coded schemes; without H, as `clip`."""
    if curvature is None:
        return gptq(weight, schemes, reach=reach)

    def solve(work: Tensor, sparsity: Sparsity) -> tuple[Tensor, Tensor]:
        return exchanged(work, sparsity, curvature.matrix)

    return gptq(weight, schemes, curvature, reach, prune=once(solve, len(weight)))
