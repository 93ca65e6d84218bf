"""The mask of some columns from their scores, with as many kept in every row as the bytes say."""

import torch
from jaxtyping import Bool, Float
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
        return _highest(blocks, sparsity.kept, dim=1).flatten(0, 1)
    if isinstance(kept, int):
        return _highest(score, kept, dim=0)
    # Rows that keep different numbers: those whose rank is below it.
    order = score.argsort(dim=0, descending=True)
    ranks = torch.arange(len(score), device=score.device).unsqueeze(1).expand_as(order)
    return torch.empty_like(order).scatter_(0, order, ranks) < kept


def _highest(score: Tensor, count: int, *, dim: int) -> Bool[Tensor, "..."]:
    chosen = score.topk(count, dim=dim).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(dim, chosen, True)
