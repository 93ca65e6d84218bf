"""What every moment has in common."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.schema import Layer

Sums = dict[str, Tensor]
"""Tensors by name: sums over tokens, with a leading dimension [experts] where the layer has one.

`diagonals` [sequences, *experts, in], where a moment has it, is one sequence's own share of the
diagonal: it tells how the moment varies from sequence to sequence.
"""


class AbstractMoment(ABC):
    """A kind of sum over a layer's inputs x_t and the loss's gradients g_t at its outputs."""

    name: ClassVar[str]

    @abstractmethod
    def zeros(self, layer: Layer, sequences: int) -> Sums:
        """Empty sums of a layer, for so many sequences."""

    @abstractmethod
    def add(
        self,
        sums: Sums,
        inputs: Float[Tensor, "tokens in"],
        gradients: Float[Tensor, "tokens out"],
        *,
        sequence: int,
        at: tuple[int, ...] = (),
    ) -> None:
        """Add tokens of one sequence; `at` is the expert, where there are some."""

    @abstractmethod
    def add_lookup(
        self,
        sums: Sums,
        tokens: Int[Tensor, "tokens"],
        gradients: Float[Tensor, "tokens hidden"],
        *,
        sequence: int,
    ) -> None:
        """Add tokens that were looked up in an embedding, whose rows they chose."""

    def fill_unreached(self, sums: Sums, reached: Tensor) -> Sums:
        """The sums with the mean of the reached experts for those that were not.

        An expert that calibration never chose is rare, so the mean is more than it would get; its
        own zeros would call every error in it free.
        """
        filled = {}
        for name, tensor in sums.items():
            by_expert = tensor.transpose(0, 1) if name == "diagonals" else tensor
            by_expert = by_expert.clone()
            by_expert[~reached] = by_expert[reached].mean(0)
            filled[name] = by_expert.transpose(0, 1) if name == "diagonals" else by_expert
        return filled


def square_sums(layer: Layer, sequences: int, *names: str) -> Sums:
    """Empty sums [*experts, in, in] of the names, and diagonals [sequences, *experts, in]."""
    *experts, _, columns = layer.shape
    sums = {name: torch.zeros(*experts, columns, columns) for name in names}
    return sums | {"diagonals": torch.zeros(sequences, *experts, columns)}
