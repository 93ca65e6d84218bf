"""DSnoT's masks (Zhang et al., 2024) under grids searched as by `clip`, which dense schemes get."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.planes import once
from bitplan.compress.quantizers.rtn import clip
from bitplan.compress.sparsifiers import dsnot as swapped
from bitplan.compress.sparsifiers import keep, wanda
from bitplan.formats import Packed
from bitplan.schema import Scheme, Sparsity


def dsnot(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
) -> list[Packed]:
    """Render one weight in several coded schemes; without H, as `clip`."""
    if curvature is None:
        return clip(weight, schemes, reach=reach)

    def solve(work: Tensor, sparsity: Sparsity) -> tuple[Tensor, Tensor]:
        first = keep(wanda(work, curvature.importance), sparsity, sparsity.columns(len(work)))
        return work, swapped(work, first, sparsity, curvature.matrix)

    return clip(weight, schemes, curvature, reach, prune=once(solve, len(weight)))
