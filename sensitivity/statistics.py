"""The statistic behind all else: one forward and one backward pass over the calibration tokens.

For a layer with inputs x_t and loss gradients g_t at its output, over the calibration tokens t,

    H = 1/T sum_t mean_o(g_to^2) x_t x_t'

is the input covariance weighted by how much the loss cares for each token. With the loss summed
over tokens, 1/2 tr(dW H dW') estimates the increase of KL in nats per token when the weight changes
by dW: the Fisher information with the correlations between tokens and between outputs left out,
and the squared gradient shared by the outputs (compare GuidedQuant, Kim et al., 2025).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitplan.files import replacing
from bitplan.schema import Kind, Layer

PROBES = 4
"""Random directions that keep enough of each batch's own H to tell how it varies."""


@dataclass(kw_only=True)
class LayerStatistics:
    """Sums over the tokens seen so far; a leading dimension [experts] where the layer has one.

    `probes` holds R' diag(sqrt(mean_o g^2)) X for each batch, R random signs: for any dW, the mean
    over probes of |dW probe|^2 is an unbiased estimate of the batch's share of tr(dW H dW').
    """

    covariance: Float[Tensor, "*experts in in"]
    probes: Float[Tensor, "batches *experts probes in"]
    rows: Int[Tensor, "*experts"]
    fisher: Float[Tensor, "*experts out in"] | None = None

    @classmethod
    def zeros(cls, layer: Layer, *, batches: int, fisher: bool = False) -> "LayerStatistics":
        """Empty sums for one layer; `fisher` adds the diagonal Fisher information."""
        *experts, _, columns = layer.shape
        keeps_fisher = fisher and layer.kind is not Kind.EMBEDDING
        return cls(
            covariance=torch.zeros(*experts, columns, columns),
            probes=torch.zeros(batches, *experts, PROBES, columns),
            rows=torch.zeros(experts, dtype=torch.int64),
            fisher=torch.zeros(layer.shape) if keeps_fisher else None,
        )

    def add(
        self, inputs: Tensor, gradients: Tensor, *, batch: int, expert: int | None = None
    ) -> None:
        """Add tokens: inputs [tokens, in] and the loss's gradients at the output [tokens, out]."""
        at = () if expert is None else (expert,)
        inputs, gradients = inputs.float(), gradients.float()
        weighted = inputs * gradients.square().mean(1, keepdim=True).sqrt()
        self.covariance[at].addmm_(weighted.t(), weighted)
        self.probes[(batch, *at)] += _signs(len(weighted), self.rows[at]) @ weighted
        self.rows[at] += len(inputs)
        if self.fisher is not None:
            self.fisher[at].addmm_(gradients.square().t(), inputs.square())

    def add_lookup(self, gradients: Tensor, *, batch: int, vocabulary: int) -> None:
        """Add tokens looked up in an embedding: gradients [tokens, hidden] at what they became.

        A wrong row moves the output by its own error, so H is diagonal. Every row counts as if it
        were as likely as any other, which judges the rows that calibration never looked up, too.
        """
        diagonal = gradients.float().square().sum(0) / vocabulary
        self.covariance.diagonal().add_(diagonal)
        self.probes[batch] += _signs(len(diagonal), self.rows) * diagonal.sqrt()
        self.rows += len(gradients)

    @property
    def reached(self) -> Bool[Tensor, "*experts"]:
        """Which matrices any gradient came to; the sums of the others are zero."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).sum(-1) > 0

    def completed(self) -> "LayerStatistics":
        """The same, with the mean of the reached experts for those that were not.

        An expert that calibration never chose is rare, so the mean is more than it would get; its
        own zeros would call every error in it free.
        """
        reached = self.reached
        if self.covariance.dim() < 3 or reached.all() or not reached.any():
            return self
        return LayerStatistics(
            covariance=_mean_for_missing(self.covariance, reached),
            probes=_mean_for_missing(self.probes.transpose(0, 1), reached).transpose(0, 1),
            rows=self.rows,
            fisher=None if self.fisher is None else _mean_for_missing(self.fisher, reached),
        )

    def copy(self) -> "LayerStatistics":
        """A copy where torch aligns it: sums in a mapped file may round in another way."""
        return LayerStatistics(**{name: tensor.clone() for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The sums by name, for a file."""
        named = {"covariance": self.covariance, "probes": self.probes, "rows": self.rows}
        return named if self.fisher is None else named | {"fisher": self.fisher}


def _mean_for_missing(
    sums: Float[Tensor, "experts *rest"], reached: Bool[Tensor, "experts"]
) -> Float[Tensor, "experts *rest"]:
    sums = sums.clone()
    sums[~reached] = sums[reached].mean(0)
    return sums


def _signs(columns: int, rows_before: Tensor) -> Float[Tensor, "probes columns"]:
    # Seeded by the tokens that the matrix has seen: a resumed run adds what the first would have,
    # and two calls within a batch draw different signs, or their sum would be biased.
    generator = torch.Generator().manual_seed(int(rows_before) * 1_000_003 + columns)
    return torch.randint(0, 2, (PROBES, columns), generator=generator).float().mul_(2).sub_(1)


@dataclass(kw_only=True)
class Statistics:
    """Statistics of all layers over the same batches, in memory.

    `is_torn`: a batch is being added; the sums hold some of it.
    """

    layers: dict[str, LayerStatistics]
    batches_done: int = 0
    tokens: int = 0
    is_torn: bool = False

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {
            f"{name}/{key}": tensor
            for name, layer in self.layers.items()
            for key, tensor in layer.tensors().items()
        }
        # One entry alone: safetensors writes several in an order that changes from file to file.
        metadata = {"done": json.dumps({"batches": self.batches_done, "tokens": self.tokens})}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)


class StatisticsFile:
    """Statistics on disk, read a layer at a time."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")
        done = json.loads(self._file.metadata()["done"])
        self.batches_done, self.tokens = int(done["batches"]), int(done["tokens"])
        self._keys = set(self._file.keys())

    @classmethod
    def find(
        cls, path: Path, layers: Sequence[Layer], *, batches: int, fisher: bool
    ) -> "StatisticsFile | None":
        """The file, or None where there is none, it is truncated, or it is of something else."""
        if not path.is_file():
            return None
        try:
            found = cls(path)
        except (SafetensorError, OSError, TypeError, KeyError, ValueError):
            return None
        empty = partial(LayerStatistics.zeros, batches=batches, fisher=fisher)
        with torch.device("meta"):  # shapes alone
            wanted = {
                f"{layer.name}/{key}": list(tensor.shape)
                for layer in layers
                for key, tensor in empty(layer).tensors().items()
            }
        return found if found.shapes() == wanted else None

    def __getitem__(self, name: str) -> LayerStatistics:
        keys = ("covariance", "probes", "rows", "fisher")
        present = {key: f"{name}/{key}" for key in keys if f"{name}/{key}" in self._keys}
        return LayerStatistics(**{k: self._file.get_tensor(v) for k, v in present.items()})

    def shapes(self) -> dict[str, list[int]]:
        """Of every tensor."""
        return {key: list(self._file.get_slice(key).get_shape()) for key in self._keys}

    def load(self, names: list[str]) -> Statistics:
        """All of the named layers in memory, to go on adding to."""
        layers = {name: self[name].copy() for name in names}
        return Statistics(layers=layers, batches_done=self.batches_done, tokens=self.tokens)
