"""Input columns that a scheme leaves out, and what is left of a matrix without them.

What goes is what is missed least. Where nothing makes up for it, that of column j is H_jj |W_j|^2,
Wanda's score of a whole column. Where the others do, it is |W_j|^2 / [H^-1]_jj, as in the optimal
brain surgeon, with a column in place of a weight (Kurtic et al., 2023, "ZipLM"; Ling et al., 2024,
"SlimGPT"): some go at a time, W and H^-1 become what they are without those, and scores are taken
anew, for of two columns that say the same only one may go.

With K the columns that stay and G the others, the best that W_K can then become is

    W_K + W_G H_GK H_KK^-1,

and all that any rendering of it loses beside that is (V - W_K) H_KK (V - W_K)': so it is rendered
as a matrix of its own, in the scheme without this.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.formats import Packed, pack_kept
from bitplan.schema import BASE, COLUMNS, Channels, Scheme

ROUNDS = 16
"""In which columns go, where the others make up for them."""


def narrow(
    weight: Float[Tensor, "out in"],
    channels: Channels,
    curvature: Curvature | None,
    *,
    compensate: bool,
) -> tuple[Float[Tensor, "out kept"], Curvature | None, Int[Tensor, "kept"]]:
    """The columns that stay, as they are to be rendered, H for them, and which they are.

    `compensate` says that they make up for the others, for which H is needed; without it all
    columns weigh the same.
    """
    gone = channels.left_out(weight.shape[1])
    if curvature is None or not compensate:
        missed = weight.float().square().sum(0)
        if curvature is not None:
            missed *= curvature.importance
        kept = missed.argsort(stable=True)[gone:].sort().values
        if curvature is not None:
            curvature = replace(curvature, covariance=curvature.covariance[kept][:, kept])
        return weight[:, kept], curvature, kept
    matrix = curvature.matrix  # damped once, for all columns
    kept, others = _surgery(weight, gone, matrix)
    own, cross = matrix[kept][:, kept], matrix[others][:, kept]
    moved = torch.linalg.solve(own, cross, left=False)
    left = weight[:, kept].float().addmm_(weight[:, others].float(), moved)
    return left, Curvature(covariance=own, damping=0.0), kept


def _surgery(
    weight: Float[Tensor, "out in"], gone: int, matrix: Float[Tensor, "in in"]
) -> tuple[Int[Tensor, "kept"], Int[Tensor, "gone"]]:
    """The columns that stay, and the others, each in rising order."""
    work, row = weight.float().clone(), weight.shape[1]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    out = torch.zeros(row, dtype=torch.bool, device=weight.device)
    for index in range(ROUNDS):
        count = gone * (index + 1) // ROUNDS - gone * index // ROUNDS
        missed = work.square().sum(0).div_(inverse.diagonal()).masked_fill_(out, torch.inf)
        some = missed.argsort(stable=True)[:count]
        share = torch.linalg.solve(inverse[some][:, some], inverse[some])
        work.addmm_(work[:, some], share, alpha=-1)
        inverse.addmm_(inverse[:, some], share, alpha=-1)
        # What rounding has left of those that are gone must not come back.
        work[:, some], inverse[some], inverse[:, some] = 0, 0, 0
        inverse[some, some] = 1
        out[some] = True
    every = torch.arange(row, device=weight.device)
    return every[~out], every[out]


def with_channels(
    scheme: Scheme, packed: Packed, kept: Int[Tensor, "kept"], shape: tuple[int, int]
) -> Packed:
    """A weight of this shape in a scheme, from what is stored of the narrower matrix."""
    made = packed.split() if packed.scheme.is_composed else {BASE: packed}
    return Packed.join(scheme, shape, made, packed.tensors.get(COLUMNS), pack_kept(kept, shape[1]))
