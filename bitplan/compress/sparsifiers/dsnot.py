"""DSnoT, dynamic sparsity without training (Zhang et al., 2024): a mask is bettered by swaps.

Of each row, at each step, one weight that was left out comes back and one that was kept goes. As
published, the first is the one whose return makes up most surely for what the row lacks, its
mean contribution over the variance of its input, and the second has the least score of Wanda
among those whose loss makes up for it too. That reads means of inputs. What is kept here is H,
second moments alone, weighted by gradients: in place of the product of what is lacking on average
and a weight's average contribution stands the average of their product, w_i (H d)_i with d the
weights that are left out, and in place of the variance H_ii.

What the row lacks is then d H d' itself, and a swap is made only where that falls: a row is done
where it does not. Of 14 linears of SmolLM2-135M at 50% that leaves 0.76 of Wanda's loss, and at
2:4 0.88.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitplan.schema import Sparsity

CYCLES = 50
"""Swaps of a row at most, as published."""


def dsnot(
    weight: Float[Tensor, "in rows"],
    mask: Bool[Tensor, "in rows"],
    sparsity: Sparsity,
    matrix: Float[Tensor, "in in"],
) -> Bool[Tensor, "in rows"]:
    """A mask that leaves out as many of each row, or of each block, at no greater loss."""
    weight, kept = weight.t().contiguous(), mask.t().contiguous()
    diagonal = matrix.diagonal()
    score = weight.square().mul_(diagonal)
    slope = weight.mul(~kept) @ matrix
    every = torch.arange(len(weight), device=weight.device)
    for _ in range(CYCLES):
        contribution = weight * slope
        cost = score.masked_fill(kept.logical_not().logical_or_(contribution >= 0), torch.inf)
        gain = contribution.div_(diagonal).masked_fill_(kept, -torch.inf)
        if sparsity.block is None:
            back, gone = gain.argmax(1), cost.argmin(1)
        else:
            back, gone = _in_a_block(gain, cost, sparsity.block)
        first, last = weight[every, back], weight[every, gone]
        change = (
            score[every, back]
            + cost[every, gone]
            - 2 * first * slope[every, back]
            + 2 * last * slope[every, gone]
            - 2 * first * last * matrix[back, gone]
        )
        better = (change < 0) & (gain[every, back] > -torch.inf)
        if not better.any():
            break
        rows, back, gone = every[better], back[better], gone[better]
        kept[rows, back], kept[rows, gone] = True, False
        slope[rows] += last[better, None] * matrix[gone] - first[better, None] * matrix[back]
    return kept.t().contiguous()


def _in_a_block(gain: Tensor, cost: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """What comes back, where its block has something that may go, and what goes from there."""
    costs = cost.unflatten(1, (-1, block))
    least = costs.min(2)
    may = least.values.isfinite().repeat_interleave(block, dim=1)
    back = gain.masked_fill_(~may, -torch.inf).argmax(1)
    of_block = (back // block).unsqueeze(1)
    return back, of_block.squeeze(1) * block + least.indices.gather(1, of_block).squeeze(1)
