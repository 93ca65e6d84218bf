"""Input columns that matter most, kept at a higher precision: OWQ (Lee et al., 2024).

The columns j of most H_jj |W_j - nearest(W_j)|^2 are salient. A quantizer that lets columns make up
for the errors of others goes over the salient ones last: in OWQ, GPTQ with H in the order [rest,
salient]. With R the errors of the others, the best that salient columns S can then become is

    W_S + R H_rS H_SS^-1,

and what is left of the loss is tr(R C R') with C = H_rr - H_rS H_SS^-1 H_Sr, whose inverse is that
block of the inverse of H which GPTQ in this order would go by. So the others are rendered by any
quantizer as a matrix of their own whose H is C. Of QuantEase it makes what its authors do with
outliers (Behdin et al., 2023, section 4): at every step the kept columns are where they are best.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.compress.by_rows import Quantizer, by_rows, reach_of, slices
from bitplan.compress.curvature import Curvature
from bitplan.compress.plane import floored
from bitplan.compress.quantizers.rtn import rtn
from bitplan.formats import Packed, rest_of
from bitplan.schema import BASE, SALIENT, Scheme, parts, salient_columns


def salient_apart(
    weight: Float[Tensor, "out in"],
    scheme: Scheme,
    quantizer: Quantizer,
    curvature: Curvature | None,
    *,
    compensate: bool,
) -> Packed:
    """Render a weight in a scheme that has salient columns and no low-rank term.

    `compensate` says that salient columns make up for the errors of the others, for which H is
    needed.
    """
    plain = {name: own for name, (own, _) in parts(scheme, weight.shape).items()}
    columns = choose_columns(weight, scheme, curvature)
    rest = rest_of(columns, weight.shape[1]).long()
    others, kept = weight[:, rest], weight[:, columns].float()
    follow, of_rest, of_kept = None, None, None
    if curvature is not None:
        of_rest, of_kept, follow = _curvatures(curvature, rest, columns, compensate=compensate)
    [base] = by_rows(others, [plain[BASE]], quantizer, of_rest)
    if follow is not None:
        for rows in slices(weight.shape):
            error = others[rows].float() - base.rows(rows).decode()
            kept[rows] += error @ follow
    if plain[SALIENT].is_float:
        salient = Packed.cast(plain[SALIENT], kept)
    else:
        [salient] = by_rows(kept, [plain[SALIENT]], quantizer, of_kept)
    both = {BASE: base, SALIENT: salient}
    return Packed.join(scheme, tuple(weight.shape), both, columns)


def choose_columns(
    weight: Float[Tensor, "out in"], scheme: Scheme, curvature: Curvature | None
) -> Int[Tensor, "k"]:
    """The columns that lose most when all are rounded to the nearest code, in rising order.

    Without H all columns weigh the same.
    """
    base, reach = scheme.base, reach_of(weight)
    loss = torch.zeros(weight.shape[1], device=weight.device)
    for rows in slices(weight.shape):
        part = weight[rows]
        [rounded] = rtn(part, [base], reach=reach)
        loss += rounded.decode().sub_(part).square_().sum(0)
    if curvature is not None:
        loss *= floored(curvature.importance)
    worst = loss.argsort(descending=True, stable=True)
    return worst[: salient_columns(scheme, weight.shape[1])].sort().values


def _curvatures(
    curvature: Curvature, rest: Tensor, columns: Tensor, *, compensate: bool
) -> tuple[Curvature, Curvature, Float[Tensor, "rest k"] | None]:
    """H for the others and for the salient columns, and H_rS H_SS^-1 where they compensate."""
    if not compensate:
        blocks = [curvature.covariance[some][:, some] for some in (rest, columns)]
        return Curvature(covariance=blocks[0]), Curvature(covariance=blocks[1]), None
    matrix = curvature.matrix  # damped once, for all columns
    own, cross = matrix[columns][:, columns], matrix[rest][:, columns]
    follow = torch.linalg.solve(own, cross, left=False)
    left = matrix[rest][:, rest].addmm_(follow, cross.t(), alpha=-1)
    of_rest, of_kept = (Curvature(covariance=block, damping=0.0) for block in (left, own))
    return of_rest, of_kept, follow
