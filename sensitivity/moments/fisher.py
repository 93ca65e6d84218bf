"""The diagonal of the Fisher information, token by token: F_oi = sum_t g_to^2 x_ti^2."""

import torch
from torch import Tensor

from bitplan.schema import Layer
from bitplan.sensitivity.moments.moment import AbstractMoment, Sums


class Fisher(AbstractMoment):
    """`fisher` [*experts, out, in]; of each sequence's own, its means over outputs and over inputs.

    `columns` [sequences, *experts, in] and `rows` [sequences, *experts, out]. Sketches would be far
    noisier: a sum of what is never negative hardly cancels.
    """

    name = "fisher"
    by_sequence = ("columns", "rows")

    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums."""
        *experts, rows, columns = layer.shape
        return {
            "fisher": torch.zeros(layer.shape),
            "columns": torch.zeros(sequences, *experts, columns),
            "rows": torch.zeros(sequences, *experts, rows),
        }

    def add(
        self,
        sums: Sums,
        inputs: Tensor,
        gradients: Tensor,
        *,
        sequence: int,
        generator: torch.Generator,
        at: tuple[int, ...] = (),
    ) -> None:
        """Add squares of gradients times squares of inputs."""
        gradients, inputs = gradients.square(), inputs.square()
        sums["fisher"][at].addmm_(gradients.t(), inputs)
        sums["columns"][(sequence, *at)] += gradients.mean(1) @ inputs
        sums["rows"][(sequence, *at)] += inputs.mean(1) @ gradients

    def add_lookup(self, sums: Sums, tokens: Tensor, gradients: Tensor, *, sequence: int) -> None:
        """Add to the rows that were looked up, and a share to all: any row may come."""
        squares = gradients.square()
        rows = len(sums["fisher"])
        spread = squares.sum(0) / rows
        # Half from the rows seen, half from all alike: few tokens say little of rare rows.
        sums["fisher"].index_add_(0, tokens.flatten(), squares, alpha=0.5)
        sums["fisher"] += spread / 2
        sums["columns"][sequence] += spread
        by_row = sums["rows"][sequence]
        by_row.index_add_(0, tokens.flatten(), squares.mean(1), alpha=0.5)
        by_row += spread.mean() / 2
