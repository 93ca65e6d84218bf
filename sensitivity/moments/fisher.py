"""The diagonal of the Fisher information, token by token: F_oi = sum_t g_to^2 x_ti^2."""

import torch
from torch import Tensor

from bitplan.schema import Layer
from bitplan.sensitivity.moments.moment import AbstractMoment, Sums


class Fisher(AbstractMoment):
    """`fisher` [*experts, out, in]; `diagonals`, its mean over outputs by sequence."""

    name = "fisher"

    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums."""
        *experts, _, columns = layer.shape
        return {
            "fisher": torch.zeros(layer.shape),
            "diagonals": torch.zeros(sequences, *experts, columns),
        }

    def add(
        self,
        sums: Sums,
        inputs: Tensor,
        gradients: Tensor,
        *,
        sequence: int,
        at: tuple[int, ...] = (),
    ) -> None:
        """Add squares of gradients times squares of inputs."""
        gradients, inputs = gradients.square(), inputs.square()
        sums["fisher"][at].addmm_(gradients.t(), inputs)
        sums["diagonals"][(sequence, *at)] += gradients.mean(1) @ inputs

    def add_lookup(self, sums: Sums, tokens: Tensor, gradients: Tensor, *, sequence: int) -> None:
        """Add to the rows that were looked up, and a share to all: any row may come."""
        squares = gradients.square()
        rows = len(sums["fisher"])
        spread = squares.sum(0) / rows
        # Half from the rows seen, half from all alike: few tokens say little of rare rows.
        sums["fisher"].index_add_(0, tokens.flatten(), squares, alpha=0.5)
        sums["fisher"] += spread / 2
        sums["diagonals"][sequence] += spread
