"""What every moment has in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.schema import Kind, Layer
from bitplan.sensitivity.moments.sketches import SKETCHES, mixed

Sums = dict[str, Tensor]
"""Tensors by name: sums over tokens, with a leading dimension [experts] where the layer has one.

A moment's `by_sequence` tells how it varies: before the experts these have a dimension [sequences],
one sequence's own sums. Of a covariance they are

    diagonals  [sequences, *experts, in]            of each sequence's covariance
    sketches   [sequences, *experts, sketches, in]  of `moments.sketches`
    lookup     [sequences, in]                      what lookups add, of an embedding: a diagonal

`unweighted` are those that gradients have no part in.
"""


class AbstractMoment(ABC):
    """A kind of sum over a layer's inputs x_t and the loss's gradients g_t at its outputs."""

    name: ClassVar[str]
    by_sequence: ClassVar[tuple[str, ...]] = ()
    unweighted: ClassVar[tuple[str, ...]] = ("lookups",)

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
        generator: torch.Generator,
        at: tuple[int, ...] = (),
    ) -> None:
        """Add tokens of one call, in one sequence; `at` is the expert, where there are some.

        `generator` is the sequence's own: all its calls draw from it, one after another.
        """

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

    def reweigh(self, sums: Sums, weight: float) -> None:
        """Make the sums what they are with all squared gradients so far times a weight."""
        for name, tensor in sums.items():
            if name not in self.unweighted:
                tensor.mul_(weight**0.5 if name == "sketches" else weight)

    def reweigh_lookup(self, sums: Sums, weight: float, *, sequence: int) -> None:
        """The same of one sequence's lookups alone; without `lookup` they cannot be told apart."""
        if "lookup" in sums and "lookup" not in self.unweighted:
            own = sums["lookup"][sequence]
            sums[self.name].diagonal(dim1=-2, dim2=-1).sub_(own, alpha=1 - weight)
            own.mul_(weight)

    def mean(self, several: Sequence[Sums]) -> Sums:
        """The sums of a matrix that is the mean of several, each without experts."""
        stacked = {name: torch.stack([one[name] for one in several]).float() for name in several[0]}
        return {
            name: mixed(tensor) if name == "sketches" else tensor.mean(0)
            for name, tensor in stacked.items()
        }

    def fill_unreached(self, sums: Sums, reached: Tensor) -> Sums:
        """The sums with the mean of the reached experts for those that were not.

        An expert that calibration never chose is rare, so the mean is more than it would get; its
        own zeros would call every error in it free.
        """
        dims = {name: int(name in self.by_sequence) for name in sums}
        known = reached.nonzero().flatten().tolist()
        mean = self.mean(
            [{name: t.select(dims[name], expert) for name, t in sums.items()} for expert in known]
        )
        filled = {}
        for name, tensor in sums.items():
            filled[name] = tensor.clone()
            filled[name].movedim(dims[name], 0)[~reached] = mean[name]
        return filled


def square_sums(layer: Layer, sequences: int, name: str, *groups: int) -> Sums:
    """Empty sums [*experts, *groups, in, in] of a name, and what tells how they vary."""
    *experts, _, columns = layer.shape
    of_each = (sequences, *experts, *groups)
    sums = {
        name: torch.zeros(*experts, *groups, columns, columns),
        "diagonals": torch.zeros(*of_each, columns),
        "sketches": torch.zeros(*of_each, SKETCHES, columns),
    }
    if layer.kind is Kind.EMBEDDING:
        sums["lookup"] = torch.zeros(sequences, columns)
    return sums
