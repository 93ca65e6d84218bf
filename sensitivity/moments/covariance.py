"""The gradient-weighted input covariance: the statistic that cost and rendering share.

For a layer with inputs x_t and loss gradients g_t at its output, over the calibration tokens t,

    H = sum_t w_t x_t x_t',    w_t = mean_o(g_to^2),

is the input covariance weighted by how much the loss cares for each token. With the loss summed
over tokens, 1/2T tr(dW H dW') estimates the increase of KL in nats per token when the weight
changes by dW: the Fisher information with the correlations between tokens and between outputs left
out, and the squared gradient shared by the outputs (compare GuidedQuant, Kim et al., 2025).

That holds for small changes, and for the tokens that it is summed over. A few of them have most of
the weight; a quantizer fits its errors to these, and at such tokens the loss saturates long before
a quadratic form does. So weights are tempered: a sequence's w_t becomes w_t^TEMPER, times what
leaves the trace of its part of H as it was. Sequences with squared gradients far beyond those of
others are weighed down as well: see `sensitivity.winsorize`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.schema import Kind, Layer
from bitplan.sensitivity.moments.moment import AbstractMoment, Sums, square_sums
from bitplan.sensitivity.moments.sketches import add_sketches

TEMPER = 0.5
"""1 weighs tokens by the loss alone, 0 takes those of a sequence alike."""


class Covariance(AbstractMoment):
    """`covariance` [*experts, in, in]; `squares` [sequences, *experts, out], sum_t g_to^2.

    Of an embedding also `lookups` [vocabulary], how often each row was looked up.
    """

    name = "covariance"
    by_sequence = ("diagonals", "sketches", "lookup", "squares")

    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums."""
        sums = square_sums(layer, sequences, "covariance")
        sums["squares"] = torch.zeros(sequences, *layer.shape[:-1])
        if layer.kind is Kind.EMBEDDING:
            sums["lookups"] = torch.zeros(layer.shape[0])
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
        """Add weighted tokens."""
        squares = gradients.square()
        weighted = inputs * tempered(squares.mean(1), inputs).sqrt().unsqueeze(1)
        sums["covariance"][at].addmm_(weighted.t(), weighted)
        sums["diagonals"][(sequence, *at)] += weighted.square().sum(0)
        add_sketches(sums["sketches"][(sequence, *at)], weighted, generator)
        sums["squares"][(sequence, *at)] += squares.sum(0)

    def add_lookup(self, sums: Sums, tokens: Tensor, gradients: Tensor, *, sequence: int) -> None:
        """A wrong row moves the output by its own error, so H is diagonal.

        In H every row counts as if it were as likely as any other, which judges the rows that
        calibration never looked up, too; `lookups` says how likely they were.
        """
        diagonal = gradients.square().sum(0) / len(sums["lookups"])
        sums["covariance"].diagonal().add_(diagonal)
        sums["lookup"][sequence] += diagonal
        sums["lookups"] += torch.bincount(tokens.flatten(), minlength=len(sums["lookups"]))


def tempered(
    weights: Float[Tensor, "tokens"], inputs: Float[Tensor, "tokens in"]
) -> Float[Tensor, "tokens"]:
    """Weights of tokens nearer to each other, with which the covariance has the same trace.

    So an error that is alike in all columns costs what it did: tokens whose inputs are enormous and
    whose gradients are tiny, as attention's sinks, count for more, and do not make all dear.
    """
    found, sizes = weights**TEMPER, inputs.square().sum(1)
    return found * ((weights @ sizes) / (found @ sizes).clamp_min(torch.finfo(found.dtype).tiny))
