"""The plain input covariance X'X: what GPTQ and output-error scores read (Frantar et al., 2023)."""

import torch
from torch import Tensor

from bitplan.schema import Layer
from bitplan.sensitivity.moments.moment import AbstractMoment, Sums, square_sums


class Inputs(AbstractMoment):
    """`inputs` [*experts, in, in], sum_t x_t x_t'; needs no gradient.

    A looked-up token is an input of one at its own row, so an embedding has its mean count on the
    diagonal.
    """

    name = "inputs"

    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums."""
        return square_sums(layer, sequences, "inputs")

    def add(
        self,
        sums: Sums,
        inputs: Tensor,
        gradients: Tensor,
        *,
        sequence: int,
        at: tuple[int, ...] = (),
    ) -> None:
        """Add tokens as they are."""
        sums["inputs"][at].addmm_(inputs.t(), inputs)
        sums["diagonals"][(sequence, *at)] += inputs.square().sum(0)

    def add_lookup(self, sums: Sums, tokens: Tensor, gradients: Tensor, *, sequence: int) -> None:
        """Add a count to every column."""
        share = torch.full_like(sums["diagonals"][sequence], tokens.numel())
        sums["inputs"].diagonal().add_(share)
        sums["diagonals"][sequence] += share
