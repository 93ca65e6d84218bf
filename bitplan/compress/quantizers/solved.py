"""Weights that make up for those left out, solved for first and then rounded by `gptq`.

What is left out is chosen, and the weights are moved, before the first is rounded; GPTQ then
spreads rounding errors alone. Dense schemes get what it gives.
"""

from collections.abc import Callable, Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.planes import once
from bitplan.compress.quantizers.gptq import gptq
from bitplan.compress.sparsifiers import admm as moved
from bitplan.compress.sparsifiers import icbs as exchanged
from bitplan.formats import Packed
from bitplan.schema import Scheme, Sparsity

Solve = Callable[
    [Float[Tensor, "in rows"], Sparsity, Float[Tensor, "in in"]],
    tuple[Float[Tensor, "in rows"], Bool[Tensor, "in rows"]],
]
"""(weight, sparsity, H) -> the weights, and which are kept"""


def admm(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
) -> list[Packed]:
    """By ADMM (Boža, 2024). Without H, as `clip`."""
    return _rounded(moved, weight, schemes, curvature, reach)


def icbs(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    curvature: Curvature | None = None,
    reach: Float[Tensor, ""] | None = None,
) -> list[Packed]:
    """By iCBS (Rosenberg et al., 2024), begun at ADMM's. Without H, as `clip`."""
    return _rounded(exchanged, weight, schemes, curvature, reach)


def _rounded(
    solve: Solve,
    weight: Tensor,
    schemes: Sequence[Scheme],
    curvature: Curvature | None,
    reach: Tensor | None,
) -> list[Packed]:
    if curvature is None:
        return gptq(weight, schemes, reach=reach)

    def solved(work: Tensor, sparsity: Sparsity) -> tuple[Tensor, Tensor]:
        return solve(work, sparsity, curvature.matrix)

    return gptq(weight, schemes, curvature, reach, prune=once(solved, len(weight)))
