"""The mask of some columns from their scores, with as many kept in every row as the bytes say."""

from itertools import combinations

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from bitplan.schema import Sparsity


def keep(
    score: Float[Tensor, "in rows"], sparsity: Sparsity, kept: int | Tensor = 0
) -> Bool[Tensor, "in rows"]:
    """True for those that score highest, of every block, or of the row.

    Args:
        score: of a row's columns, all of them, or the last of them in whole blocks.
        sparsity: what the row is to have.
        kept: of an unstructured row, how many of these columns.
    """
    if sparsity.block is not None:
        assert sparsity.kept is not None
        blocks = score.unflatten(0, (-1, sparsity.block))
        return (_ranks(blocks) < sparsity.kept).flatten(0, 1)
    if isinstance(kept, int):
        rows = score.t().contiguous()  # a search goes along memory
        chosen = rows.topk(kept, dim=1, sorted=False).indices
        mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, chosen, True)
        return mask.t().contiguous()
    # Rows that keep different numbers: those whose rank is below it.
    order = score.argsort(dim=0, descending=True)
    ranks = torch.arange(len(score), device=score.device).unsqueeze(1).expand_as(order)
    return torch.empty_like(order).scatter_(0, order, ranks) < kept


def _ranks(blocks: Float[Tensor, "blocks block rows"]) -> UInt8[Tensor, "blocks block rows"]:
    """How many of its block score higher than each; of equal ones the first does.

    Every pair is compared: blocks are short, and a sort takes three times as long.
    """
    ranks = torch.zeros_like(blocks, dtype=torch.uint8)
    for first, second in combinations(range(blocks.shape[1]), 2):
        later = blocks[:, second] > blocks[:, first]
        ranks[:, first] += later
        ranks[:, second] += ~later
    return ranks
