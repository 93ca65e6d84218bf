"""What goes and what comes back is chosen together, in small problems: iCBS.

The combinatorial brain surgeon (Yu et al., 2022) chooses all that goes at once, by the quadratic
form of what is lost; iCBS (Rosenberg et al., 2024, "Scalable iterative pruning of large language
and vision models using block coordinate descent") does so for a few candidates at a time, all other
weights staying what they are, again and again. Theirs are of the whole network and none makes up
for another as they are chosen. Here every row has problems of its own, and they do.

Weights V are zero where the mask says, and G = (W - V) H says what the others could gain. With P
the inverse of H for what is free to move, the loss grows by v_j^2 / P_jj where one goes and falls
by G_j^2 P_jj where one comes back, the others making up for it. The least and the most of these are
the candidates C. All free, they would be u = V_C + P_CC G_C, and without those in F there is lost

    u_F (P_FF)^-1 u_F',

of which as many as came are taken, least loss first, u and P following, as the optimal brain
surgeon does it. P should be of what the row keeps, which is another in every row. One for all is
near enough: that of H with its other entries at a share of what they are. Kept weights then settle
by conjugate gradients, and a row for which the loss did not fall stays as it was, and tries half as
many from then on. The first mask and weights are those of `admm`. Of its loss, in eight linears of
SmolLM2-135M, 0.89 to 1.00 is left at 50% and 0.87 to 1.00 at 2:4, the less the less H is drawn to
its diagonal. Of the first of these swaps judged by the inverse of each row's own H leave 0.87, but
that takes time in the cube of the columns for every row; without compensation 0.995 is left.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bitplan.compress.sparsifiers.admm import admm
from bitplan.schema import Sparsity

ROUNDS = 6
CANDIDATES = 16
"""Of a row, that may go, and as many that may come back."""
SETTLING = 10
"""Steps of conjugate gradients."""
SHARE = 0.9
"""Of H's other entries, where it stands for that of what any row keeps."""


def icbs(
    weight: Float[Tensor, "in rows"], sparsity: Sparsity, matrix: Float[Tensor, "in in"]
) -> tuple[Float[Tensor, "in rows"], Bool[Tensor, "in rows"]]:
    """The weights, zero where they are left out, and True where they are not; H with a diagonal."""
    solved, mask = admm(weight, sparsity, matrix)
    original = weight.t().contiguous()
    values, kept = solved.t().contiguous(), mask.t().contiguous()
    values = settled(original, values, kept, matrix)
    slope, loss = _slope_and_loss(original, values, matrix)
    inverse = _inverse(matrix)
    most = torch.full_like(kept[:, :1], CANDIDATES, dtype=torch.int64)
    for _ in range(ROUNDS):
        others, start = _exchanged(values, kept, slope, inverse, sparsity, most)
        changed = settled(original, start, others, matrix)
        slopes, losses = _slope_and_loss(original, changed, matrix)
        better = losses < loss
        if not better.any():
            break
        most = torch.where(better, most, (most // 2).clamp_min(1))
        values, slope = (
            torch.where(better, *both) for both in ((changed, values), (slopes, slope))
        )
        kept, loss = torch.where(better, others, kept), torch.where(better, losses, loss)
    return values.t().contiguous(), kept.t().contiguous()


def settled(
    original: Float[Tensor, "rows in"],
    values: Float[Tensor, "rows in"],
    kept: Bool[Tensor, "rows in"],
    matrix: Float[Tensor, "in in"],
    steps: int = SETTLING,
) -> Float[Tensor, "rows in"]:
    """Kept weights nearer to where the loss is least: conjugate gradients, row by row.

    Begun at `values` and preconditioned by H's diagonal.
    """
    diagonal, tiny = matrix.diagonal(), torch.finfo(torch.float32).tiny
    left = ((original - values) @ matrix).mul_(kept)
    along = left / diagonal
    size = (left * along).sum(1, keepdim=True)
    for _ in range(steps):
        change = (along @ matrix).mul_(kept)
        length = size / (along * change).sum(1, keepdim=True).clamp_min(tiny)
        values = values.addcmul(along, length)
        left.addcmul_(change, length, value=-1)
        ahead = left / diagonal
        before, size = size, (left * ahead).sum(1, keepdim=True)
        along = ahead.addcmul_(along, size / before.clamp_min(tiny))
    return values


def _inverse(matrix: Float[Tensor, "in in"]) -> Float[Tensor, "in in"]:
    reduced = matrix * SHARE
    reduced.diagonal().copy_(matrix.diagonal())
    return torch.cholesky_inverse(torch.linalg.cholesky(reduced))


def _slope_and_loss(
    original: Tensor, values: Tensor, matrix: Tensor
) -> tuple[Float[Tensor, "rows in"], Float[Tensor, "rows 1"]]:
    missing = original - values
    slope = missing @ matrix
    return slope, (missing * slope).sum(1, keepdim=True)


def _exchanged(
    values: Float[Tensor, "rows in"],
    kept: Bool[Tensor, "rows in"],
    slope: Float[Tensor, "rows in"],
    inverse: Float[Tensor, "in in"],
    sparsity: Sparsity,
    most: Int64[Tensor, "rows 1"],
) -> tuple[Bool[Tensor, "rows in"], Float[Tensor, "rows in"]]:
    """Another mask of each row, and weights to begin with; `most` of each kind take part."""
    diagonal = inverse.diagonal()
    cost = (values.square() / diagonal).masked_fill_(~kept, torch.inf)
    gain = slope.square().mul_(diagonal).masked_fill_(kept, -torch.inf)
    goes, comes = _candidates(cost, gain, sparsity)
    count = goes.shape[1]
    takes_part = torch.arange(count, device=values.device) < most
    columns = torch.cat([goes, comes], dim=1)
    among = inverse[columns.unsqueeze(2), columns.unsqueeze(1)]
    coming = slope.gather(1, comes).mul_(takes_part)
    free = values.gather(1, columns) + (among[:, :, count:] @ coming.unsqueeze(2)).squeeze(2)
    pairs = sparsity.block is not None
    gone = _surgery(free, among, takes_part, pairs=pairs)
    start = values.scatter(1, columns, free.masked_fill_(gone, 0))
    return kept.scatter(1, columns, ~gone), start


def _candidates(
    cost: Tensor, gain: Tensor, sparsity: Sparsity
) -> tuple[Int64[Tensor, "rows n"], Int64[Tensor, "rows n"]]:
    """Those that cost least to leave out and those that gain most; in N:M, of the same blocks."""
    if sparsity.block is None:
        kept = int(cost[0].isfinite().sum())
        count = min(CANDIDATES, kept, cost.shape[1] - kept)
        return cost.topk(count, largest=False).indices, gain.topk(count).indices
    costs, gains = (score.unflatten(1, (-1, sparsity.block)) for score in (cost, gain))
    least, best = costs.min(2), gains.max(2)
    count = min(CANDIDATES, costs.shape[1])
    blocks = (best.values - least.values).topk(count).indices
    first = blocks * sparsity.block
    return first + least.indices.gather(1, blocks), first + best.indices.gather(1, blocks)


def _surgery(
    free: Float[Tensor, "rows 2n"],
    among: Float[Tensor, "rows 2n 2n"],
    takes_part: Bool[Tensor, "rows n"],
    *,
    pairs: bool,
) -> Bool[Tensor, "rows 2n"]:
    """Which of the candidates go: n of them, or, in `pairs`, one of every i and n + i.

    `free` and `among`, P, become what they are without them. What takes no part is as it was: the
    first half stay, the second go.
    """
    count = takes_part.shape[1]
    stays = torch.cat([~takes_part, torch.zeros_like(takes_part)], dim=1)
    first = torch.cat([torch.zeros_like(takes_part), ~takes_part], dim=1)
    gone = torch.zeros_like(stays)
    for _ in range(count):
        score = free.square() / among.diagonal(dim1=1, dim2=2)
        score.masked_fill_(first & ~gone, -1).masked_fill_(stays | gone, torch.inf)
        one = score.argmin(1, keepdim=True)
        column = among.gather(2, one.unsqueeze(1).expand(-1, 2 * count, 1)).squeeze(2)
        column_share = column / column.gather(1, one)
        free.sub_(column_share * free.gather(1, one))
        among.baddbmm_(column.unsqueeze(2), column_share.unsqueeze(1), alpha=-1)
        gone.scatter_(1, one, True)
        if pairs:
            stays.scatter_(1, (one + count) % (2 * count), True)
    return gone
