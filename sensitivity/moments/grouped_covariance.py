"""The gradient-weighted input covariance, one for each group of consecutive outputs.

GuidedQuant (Kim et al., 2025) averages the squared gradient over groups of outputs: more
groups are closer to one H for each output, and take as many times the memory.
"""

import torch
from torch import Tensor

from bitplan.schema import Layer
from bitplan.sensitivity.moments.moment import AbstractMoment, Sums, square_sums
from bitplan.sensitivity.moments.sketches import add_sketches

GROUPS = 4


class GroupedCovariance(AbstractMoment):
    """`grouped_covariance` [*experts, groups, in, in]; output o of n is in group o * groups // n.

    `squares` [*experts, out]: sum_t g_to^2. `diagonals` and `sketches` are by group, too.
    """

    name = "grouped_covariance"
    by_sequence = ("diagonals", "sketches", "lookup")

    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums."""
        sums = square_sums(layer, sequences, "grouped_covariance", GROUPS)
        sums["squares"] = torch.zeros(layer.shape[:-1])
        return sums

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
        """Add tokens, weighted for each group."""
        squares = gradients.square()
        group = group_of(gradients.shape[1]).to(gradients.device)
        counts = torch.bincount(group, minlength=GROUPS).clamp_min(1)
        weights = squares.new_zeros(len(squares), GROUPS).index_add_(1, group, squares) / counts
        for index in range(GROUPS):
            weighted = inputs * weights[:, index : index + 1].sqrt()
            sums["grouped_covariance"][(*at, index)].addmm_(weighted.t(), weighted)
            sums["diagonals"][(sequence, *at, index)] += weighted.square().sum(0)
            add_sketches(sums["sketches"][(sequence, *at, index)], weighted, generator)
        sums["squares"][at] += squares.sum(0)

    def add_lookup(self, sums: Sums, tokens: Tensor, gradients: Tensor, *, sequence: int) -> None:
        """Rows are looked up, not multiplied: all groups get the same diagonal."""
        diagonal = gradients.square().sum(0) / len(sums["squares"])
        sums["grouped_covariance"].diagonal(dim1=-2, dim2=-1).add_(diagonal)
        sums["lookup"][sequence] += diagonal


def group_of(outputs: int) -> Tensor:
    """The group of each of so many outputs."""
    return torch.arange(outputs) * GROUPS // outputs
