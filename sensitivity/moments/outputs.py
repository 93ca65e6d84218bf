"""The covariance of the gradients at the output: the other Kronecker factor beside the inputs'."""

import torch
from torch import Tensor

from bitplan.schema import Kind, Layer
from bitplan.sensitivity.moments.moment import AbstractMoment, Sums
from bitplan.sensitivity.moments.sketches import SKETCHES, add_sketches

LARGEST = 16_384
"""More outputs than this, as of a vocabulary, keep the diagonal alone."""


class Outputs(AbstractMoment):
    """`outputs` [*experts, out, out], sum_t g_t g_t', or its diagonal [*experts, out].

    A diagonal has no `sketches`: `diagonals` tell all of it.
    """

    name = "outputs"
    by_sequence = ("diagonals", "sketches")

    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums."""
        *experts, rows, _ = layer.shape
        diagonals = torch.zeros(sequences, *experts, rows)
        if rows > LARGEST or layer.kind is Kind.EMBEDDING:
            return {"outputs": torch.zeros(*experts, rows), "diagonals": diagonals}
        return {
            "outputs": torch.zeros(*experts, rows, rows),
            "diagonals": diagonals,
            "sketches": torch.zeros(sequences, *experts, SKETCHES, rows),
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
        """Add outer products of gradients."""
        squares = gradients.square().sum(0)
        sums["diagonals"][(sequence, *at)] += squares
        if "sketches" in sums:
            sums["outputs"][at].addmm_(gradients.t(), gradients)
            add_sketches(sums["sketches"][(sequence, *at)], gradients, generator)
        else:
            sums["outputs"][at] += squares

    def add_lookup(self, sums: Sums, tokens: Tensor, gradients: Tensor, *, sequence: int) -> None:
        """Add the mean square of the gradient to the rows looked up."""
        squares = gradients.square().mean(1)
        for tensor in (sums["outputs"], sums["diagonals"][sequence]):
            tensor.index_add_(0, tokens.flatten(), squares)
