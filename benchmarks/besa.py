"""BESA (Xu et al., 2024): what share of each linear goes, learned block by block by its gradient.

The weights of a linear are ranked by Wanda's score |W_ij| |x_j|. It loses a share p_d with weight
beta_d, a softmax over the shares 1/D, 2/D, ..., so that on average it loses alpha = sum beta_d p_d,
and a weight goes with the sum of the beta_d whose p_d is above its rank. What is above alpha stays;
on the way back that sum stands for the mask (a straight-through estimator). A block's loss is the
squared error of its output, as a share of the output's own square, and `PENALTY` times the square
of how far its share is from the one asked for. Its inputs are those of the blocks in front as they
were pruned.
"""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bitplan.models import Inputs, module_of, wide_matmuls
from bitplan.schema import Layer
from bitplan.tune.blocks import chain_of
from bitplan.tune.streams import Stream

SHARES = 100  # the paper's D
EPOCHS, BATCH, RATE = 4, 4, 0.05
PENALTY = 100.0
"""On 0.01 off the share asked for: as much as one percent of the output's square."""

Squares: TypeAlias = Mapping[str, Tensor]
"""Of each layer's inputs, [in]."""


def learned_shares(
    model: nn.Module, layers: list[Layer], tokens: Inputs, squares: Squares, mean: float
) -> dict[str, float]:
    """The share of each layer that goes, `mean` of every block. The model stays as it is."""
    chain = chain_of(model.requires_grad_(False), tokens)
    told, ours = (Stream.begin(chain, tokens) for _ in range(2))
    found: dict[str, float] = {}
    for index in range(len(chain.blocks)):
        told.advance(index)
        within = {
            layer.name: _Ranked(module_of(model, layer), squares[layer.name], mean)
            for layer in layers
            if layer.block == index
        }
        _learn(within, ours, told.hidden, index, mean)
        found |= {name: one.share().item() for name, one in within.items()}
        for one in within.values():
            one.prune()
        ours.advance(index)
        for one in within.values():
            one.restore()
    return found


class _Ranked:
    """A linear, the ranks of its weights, and what is learned of it."""

    def __init__(self, module: nn.Module, squares: Tensor, mean: float) -> None:
        self.module, self.weight = module, module.get_parameter("weight")
        self.original = self.weight.detach().clone()
        score = self.original.abs().float() * squares.sqrt()
        order = score.flatten().argsort().argsort().view_as(score)
        self.rank = order.float().add_(0.5).div_(order.numel())
        self.shares = torch.arange(1, SHARES + 1) / SHARES
        # Near the mean to begin with: a softmax of a parabola around it.
        start = -((self.shares - mean) ** 2) / (2 * 0.1**2)
        self.logits = nn.Parameter(start)

    def share(self) -> Tensor:
        """Alpha."""
        return self.logits.softmax(0) @ self.shares

    def masked(self) -> Tensor:
        """The weight without what goes; differentiable in what is learned."""
        beta = self.logits.softmax(0)
        # The weight of the shares above a rank, of all ranks between two shares at once.
        goes = beta.flip(0).cumsum(0).flip(0)[(self.rank * SHARES).long()]
        stays = (self.rank >= self.share()).float()
        mask = stays + (goes.detach() - goes)
        return (self.original.float() * mask).to(self.original.dtype)

    def prune(self) -> None:
        """Without what goes."""
        self.weight.data = self.masked().detach()

    def restore(self) -> None:
        """As it was."""
        self.weight.data = self.original


def _learn(
    layers: Mapping[str, _Ranked], stream: Stream, wanted: Tensor, block: int, mean: float
) -> None:
    module, chain = stream.chain.blocks[block], stream.chain
    names = {parameter: name for name, parameter in module.named_parameters()}
    size = sum(one.weight.numel() for one in layers.values())
    optimizer = torch.optim.Adam([one.logits for one in layers.values()], lr=RATE)
    for step in range(EPOCHS * len(stream.inputs) // BATCH):
        start = step * BATCH % len(stream.inputs)
        chosen = slice(start, start + BATCH)
        masked = {names[one.weight]: one.masked() for one in layers.values()}
        call = stream.calls(chosen)[block]
        args = (stream.hidden[chosen], *call.args)
        with wide_matmuls():
            output = torch.func.functional_call(module, masked, args, call.kwargs)
        output = output[0] if chain.in_tuples[block] else output
        target = wanted[chosen].float()
        error = (output.float() - target).square().sum() / target.square().sum()
        share = sum(one.share() * one.weight.numel() for one in layers.values()) / size
        optimizer.zero_grad()
        (error + PENALTY * (share - mean) ** 2).backward()
        optimizer.step()
