"""The gradient-weighted input covariance, one for each group of consecutive outputs.

GuidedQuant (Kim et al., 2025, eq. 8) averages the squared gradient over groups of outputs: more
groups are closer to one H for each output, and take as many times the memory.
"""

import torch
from torch import Tensor

from bitplan.schema import Layer
from bitplan.sensitivity.moments.moment import AbstractMoment, Sums

GROUPS = 4


class GroupedCovariance(AbstractMoment):
    """`grouped_covariance` [*experts, groups, in, in]; output o of n is in group o * groups // n.

    `squares` [*experts, out]: sum_t g_to^2.
    """

    name = "grouped_covariance"

    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums."""
        *experts, _, columns = layer.shape
        return {
            "grouped_covariance": torch.zeros(*experts, GROUPS, columns, columns),
            "squares": torch.zeros(layer.shape[:-1]),
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
        """Add tokens, weighted for each group."""
        squares = gradients.square()
        group = group_of(gradients.shape[1]).to(gradients.device)
        counts = torch.bincount(group, minlength=GROUPS).clamp_min(1)
        weights = squares.new_zeros(len(squares), GROUPS).index_add_(1, group, squares) / counts
        for index in range(GROUPS):
            weighted = inputs * weights[:, index : index + 1].sqrt()
            sums["grouped_covariance"][(*at, index)].addmm_(weighted.t(), weighted)
        sums["squares"][at] += squares.sum(0)
        sums["diagonals"][(sequence, *at)] += squares.mean(1) @ inputs.square()

    def add_lookup(self, sums: Sums, tokens: Tensor, gradients: Tensor, *, sequence: int) -> None:
        """Rows are looked up, not multiplied: all groups get the same diagonal."""
        diagonal = gradients.square().sum(0) / len(sums["squares"])
        sums["grouped_covariance"].diagonal(dim1=-2, dim2=-1).add_(diagonal)
        sums["diagonals"][sequence] += diagonal


def group_of(outputs: int) -> Tensor:
    """The group of each of so many outputs."""
    return torch.arange(outputs) * GROUPS // outputs
