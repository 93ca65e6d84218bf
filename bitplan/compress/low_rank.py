"""A low-rank term for what rounding did: EoRA (Liu et al., 2024) and QERA (Zhang et al., 2024).

With R = W - W_q and H = L L', the U V of rank r that leaves the least of tr((R - U V) H (R - U V)')
is the truncated singular value decomposition of R L, times L^-1. With U_r the first r left singular
vectors that is U_r (U_r' R). V = U_r' R is rounded first, each row by its own scale, and U is then
the least squares for the V that came of it. So the rows of V have the size of their singular value
and the columns of U one size, which a row of U wants: it has one scale for all of them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.by_rows import by_rows, slices
from bitplan.compress.curvature import Curvature
from bitplan.compress.quantizers.rtn import rtn
from bitplan.formats import Packed
from bitplan.schema import BASE, COLUMNS, DOWN, UP, Scheme, parts


def add_low_rank(
    weight: Float[Tensor, "out in"],
    scheme: Scheme,
    below: Packed,
    curvature: Curvature | None,
) -> Packed:
    """Add the term of a scheme to what the rest of the scheme has made of a weight."""
    plain = {name: own for name, (own, _) in parts(scheme, weight.shape).items()}
    assert scheme.low_rank is not None
    if curvature is None:
        matrix = torch.eye(weight.shape[1], device=weight.device)
    else:
        matrix = curvature.matrix
    wide = down_factor(weight, below, matrix, scheme.low_rank.rank)
    [down] = by_rows(wide, [plain[DOWN]], rtn)
    [up] = by_rows(up_factor(weight, below, matrix, down.decode()), [plain[UP]], rtn)
    made = below.split() if below.scheme.is_composed else {BASE: below}
    made |= {UP: up, DOWN: down}
    return Packed.join(scheme, tuple(weight.shape), made, below.tensors.get(COLUMNS))


def down_factor(
    weight: Float[Tensor, "out in"], below: Packed, matrix: Float[Tensor, "in in"], rank: int
) -> Float[Tensor, "rank in"]:
    """U_r' R: of the squares of R L on its shorter side, the eigenvectors with most."""
    rows, columns = weight.shape
    if rows <= columns:
        error = _error(weight, below, slice(0, rows))
        return _leading(error @ matrix @ error.t(), rank)[1].t() @ error
    squares = torch.zeros_like(matrix)
    for some in slices(weight.shape):
        error = _error(weight, below, some)
        squares.addmm_(error.t(), error)
    lower = torch.linalg.cholesky(matrix)
    values, vectors = _leading(lower.t() @ squares @ lower, rank)
    # U_r' R = S Q' L^-1, Q the right singular vectors of R L.
    right = vectors * values.clamp_min(0).sqrt()
    return torch.linalg.solve_triangular(lower.t(), right, upper=True).t()


def up_factor(
    weight: Float[Tensor, "out in"],
    below: Packed,
    matrix: Float[Tensor, "in in"],
    down: Float[Tensor, "rank in"],
) -> Float[Tensor, "out rank"]:
    """The U of least loss for a V: R H V' (V H V')^-1."""
    along = matrix @ down.t()
    project = along @ torch.linalg.pinv(down @ along, hermitian=True)
    return torch.cat([_error(weight, below, rows) @ project for rows in slices(weight.shape)])


def _error(weight: Tensor, below: Packed, rows: slice) -> Float[Tensor, "rows in"]:
    return weight[rows].float() - below.rows(rows).decode()


def _leading(
    squares: Float[Tensor, "n n"], rank: int
) -> tuple[Float[Tensor, "rank"], Float[Tensor, "n rank"]]:
    values, vectors = torch.linalg.eigh(squares)
    return values[-rank:], vectors[:, -rank:]
