"""The gradient-weighted input covariance, one for each group of consecutive outputs.

GuidedQuant (Kim et al., 2025, eq. 8) averages the squared gradient over groups of outputs: more
groups are closer to one H for each output, and take as many times the memory.
"""

from itertools import pairwise

import torch
from torch import Tensor

from bitplan.schema import Layer
from bitplan.sensitivity.moments.moment import AbstractMoment, Sums

GROUPS = 4


class GroupedCovariance(AbstractMoment):
    """`covariances` [*experts, groups, in, in]; output o of n is in group o * groups // n.

    `counts` [groups]: the outputs of each group.
    """

    name = "grouped_covariance"

    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums."""
        *experts, _, columns = layer.shape
        return {
            "covariances": torch.zeros(*experts, GROUPS, columns, columns),
            "counts": torch.tensor(_counts(layer.shape[-2])),
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
        weights = squares.new_zeros(len(squares), GROUPS).index_add_(1, group, squares)
        weights /= sums["counts"].clamp_min(1)
        for index in range(GROUPS):
            weighted = inputs * weights[:, index : index + 1].sqrt()
            sums["covariances"][(*at, index)].addmm_(weighted.t(), weighted)
        sums["diagonals"][(sequence, *at)] += squares.mean(1) @ inputs.square()

    def add_lookup(self, sums: Sums, tokens: Tensor, gradients: Tensor, *, sequence: int) -> None:
        """Rows are looked up, not multiplied: all groups get the same diagonal."""
        diagonal = gradients.square().sum(0) / sums["counts"].sum()
        sums["covariances"].diagonal(dim1=-2, dim2=-1).add_(diagonal)
        sums["diagonals"][sequence] += diagonal


def _counts(outputs: int) -> list[float]:
    firsts = [-(-group * outputs // GROUPS) for group in range(GROUPS + 1)]
    return [float(end - first) for first, end in pairwise(firsts)]


def group_of(outputs: int) -> Tensor:
    """The group of each of so many outputs."""
    return torch.arange(outputs) * GROUPS // outputs
