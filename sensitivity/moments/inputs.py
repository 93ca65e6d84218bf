"""The plain input covariance X'X: what GPTQ and output-error scores read (Frantar et al., 2023)."""

import torch
from torch import Tensor

from bitplan.schema import Layer
from bitplan.sensitivity.moments.moment import AbstractMoment, Sums, square_sums
from bitplan.sensitivity.moments.sketches import add_sketches


class Inputs(AbstractMoment):
    """`inputs` [*experts, in, in], sum_t x_t x_t'; needs no gradient.

    `counts` [sequences, *experts]: the tokens that reached each matrix. A looked-up token is an
    input of one at its own row, so an embedding has its mean count on the diagonal.
    """

    name = "inputs"
    by_sequence = ("diagonals", "sketches", "lookup", "counts")
    unweighted = ("inputs", *by_sequence)

    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums."""
        sums = square_sums(layer, sequences, "inputs")
        sums["counts"] = torch.zeros(sequences, *layer.shape[:-2])
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
        """Add tokens as they are."""
        sums["inputs"][at].addmm_(inputs.t(), inputs)
        sums["diagonals"][(sequence, *at)] += inputs.square().sum(0)
        add_sketches(sums["sketches"][(sequence, *at)], inputs, generator)
        sums["counts"][(sequence, *at)] += len(inputs)

    def add_lookup(self, sums: Sums, tokens: Tensor, gradients: Tensor, *, sequence: int) -> None:
        """Add a count to every column."""
        sums["inputs"].diagonal().add_(tokens.numel())
        sums["lookup"][sequence] += tokens.numel()
        sums["counts"][sequence] += tokens.numel()
