"""The covariance of the gradients at the output: the other Kronecker factor beside the inputs'."""

import torch
from torch import Tensor

from bitplan.schema import Kind, Layer
from bitplan.sensitivity.moments.moment import AbstractMoment, Sums

LARGEST = 16_384
"""More outputs than this, as of a vocabulary, keep the diagonal alone."""


class Outputs(AbstractMoment):
    """`outputs` [*experts, out, out], sum_t g_t g_t', or its diagonal [*experts, out]."""

    name = "outputs"

    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums."""
        *experts, rows, _ = layer.shape
        is_diagonal = rows > LARGEST or layer.kind is Kind.EMBEDDING
        return {"outputs": torch.zeros(*experts, rows, *(() if is_diagonal else (rows,)))}

    def add(
        self,
        sums: Sums,
        inputs: Tensor,
        gradients: Tensor,
        *,
        sequence: int,
        at: tuple[int, ...] = (),
    ) -> None:
        """Add outer products of gradients."""
        outputs = sums["outputs"]
        if outputs.dim() - len(at) == 1:
            outputs[at] += gradients.square().sum(0)
        else:
            outputs[at].addmm_(gradients.t(), gradients)

    def add_lookup(self, sums: Sums, tokens: Tensor, gradients: Tensor, *, sequence: int) -> None:
        """Add the mean square of the gradient to the rows looked up."""
        sums["outputs"].index_add_(0, tokens.flatten(), gradients.square().mean(1))
