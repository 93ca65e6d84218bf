"""What one layer's moments came to, over the calibration sequences: in memory and on disk."""

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bitplan.errors import InputError
from bitplan.schema import Layer
from bitplan.sensitivity.moments import MOMENTS, AbstractMoment
from bitplan.sensitivity.watch import Seen
from bitplan.sensitivity.winsorize import KINDS, LOOKUP, PRODUCT, factor, mean_squares
from bitplan.tensors import load_tensors, save_tensors

LEFT_OUT = -1
"""What stands for the tokens of a sequence that had values which are not finite."""

COUNTS = ("sequences", "rows", "reached", "squares")
"""What is kept of every moment beside its own tensors."""


@dataclass(frozen=True, kw_only=True)
class Sums:
    """One moment of one layer, over the sequences seen so far.

    `tensors` are the moment's own. `sequences` [sequences] counts the tokens that each sequence
    gave: 0 before it was seen, `LEFT_OUT` if it was left out. `rows` [*experts] counts the tokens
    that reached each matrix, and `reached` tells whether a gradient came with any of them.
    `squares` [kinds, sequences] is each sequence's mean squared gradient, before it is winsorized.
    """

    moment: str
    tensors: dict[str, Tensor]
    sequences: Int[Tensor, "sequences"]
    rows: Int[Tensor, "*experts"]
    reached: Bool[Tensor, "*experts"]
    squares: Float[Tensor, "kinds sequences"]

    @classmethod
    def zeros(cls, moment: str, layer: Layer, *, sequences: int) -> "Sums":
        """Before anything was seen."""
        experts = layer.shape[:-2]
        return cls(
            moment=moment,
            tensors=MOMENTS[moment].zeros(layer, sequences),
            sequences=torch.zeros(sequences, dtype=torch.int64),
            rows=torch.zeros(experts, dtype=torch.int64),
            reached=torch.zeros(experts, dtype=torch.bool),
            squares=torch.zeros(KINDS, sequences, dtype=torch.float64),
        )

    def add(self, seen: Iterable[Seen], *, sequence: int, tokens: int) -> None:
        """Add all that the layer saw of one sequence of so many tokens, winsorized."""
        seen = list(seen)
        moment = MOMENTS[self.moment]
        weights = self._winsorize(moment, seen, sequence)
        generator = torch.Generator().manual_seed(sequence)
        for one in seen:
            at = () if one.expert is None else (one.expert,)
            gradients = one.gradients.float()
            if (weight := weights[LOOKUP if one.is_lookup else PRODUCT]) < 1:
                gradients = gradients * weight**0.5
            if one.is_lookup:
                moment.add_lookup(self.tensors, one.inputs, gradients, sequence=sequence)
            else:
                inputs = one.inputs.float()
                moment.add(
                    self.tensors,
                    inputs,
                    gradients,
                    sequence=sequence,
                    generator=generator,
                    at=at,
                )
            self.rows[at] += len(gradients)
            self.reached[at] |= bool(gradients.any())
        self.sequences[sequence] = tokens

    def _winsorize(
        self, moment: AbstractMoment, seen: Sequence[Seen], sequence: int
    ) -> list[float]:
        """What to weigh the squared gradients by, of products and of lookups.

        The first sequence had no other beside it: it is weighed when the second comes.
        """
        self.squares[:, sequence] = mean_squares(seen)
        came = self.squares > 0
        for kind in (PRODUCT, LOOKUP):
            others = [int(one) for one in came[kind].nonzero() if one != sequence]
            if came[kind, sequence] and len(others) == 1:
                weight = factor(self.squares[kind], others[0])
                if came[1 - kind].any():
                    if kind == LOOKUP:
                        moment.reweigh_lookup(self.tensors, weight, sequence=others[0])
                else:
                    moment.reweigh(self.tensors, weight)
        return [factor(squares, sequence) for squares in self.squares]

    @property
    def is_complete(self) -> bool:
        """Whether every sequence was seen."""
        return bool(self.sequences.ne(0).all())

    @property
    def tokens(self) -> int:
        """Tokens of the sequences that were added, whether or not they reached the layer."""
        return int(self.sequences.clamp_min(0).sum())

    def completed(self) -> "Sums":
        """The same, with the mean of the reached experts for those that were not."""
        reached = self.reached
        if reached.dim() == 0 or reached.all() or not reached.any():
            return self
        rows = self.rows.clone()  # what is summed is divided by them
        rows[~reached] = rows[reached].float().mean().round().long()
        tensors = MOMENTS[self.moment].fill_unreached(self.tensors, reached)
        return replace(self, tensors=tensors, rows=rows)

    def or_mean(self, siblings: Sequence["Sums"]) -> "Sums":
        """The same; or the mean of the siblings that were reached, if this was not, and they were.

        Of experts that are modules of their own: an expert that calibration never chose is rare, so
        the mean is more than it would get.
        """
        known = [one for one in siblings if one.is_complete and one.reached.all()]
        if self.reached.any() or not known:
            return self
        tensors = MOMENTS[self.moment].mean([one.tensors for one in known])
        rows = torch.stack([one.rows for one in known]).float().mean(0).round().long()
        return replace(self, tensors=tensors, rows=rows, reached=torch.ones_like(self.reached))

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        named = {f"count/{name}": getattr(self, name) for name in COUNTS}
        save_tensors(path, self.tensors | named)

    @classmethod
    def load(cls, moment: str, layer: Layer, path: Path, *, sequences: int) -> "Sums | None":
        """Mapped from its file; None where there is none, or it is of something else."""
        with torch.device("meta"):  # shapes alone
            empty = cls.zeros(moment, layer, sequences=sequences)
        found = load_tensors(path)
        if found is None or not {f"count/{name}" for name in COUNTS} <= found.keys():
            return None
        counts = {name: found.pop(f"count/{name}") for name in COUNTS}
        shapes = {name: tensor.shape for name, tensor in found.items()}
        if shapes != {name: tensor.shape for name, tensor in empty.tensors.items()}:
            return None
        if counts["sequences"].shape != (sequences,):
            return None
        return cls(moment=moment, tensors=found, **counts)

    def copy(self) -> "Sums":
        """A copy where torch aligns it: sums in a mapped file may round in another way."""
        return replace(
            self,
            tensors={name: tensor.clone() for name, tensor in self.tensors.items()},
            **{name: getattr(self, name).clone() for name in COUNTS},
        )


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """The complete moments of one layer, for estimators to read."""

    moments: Mapping[str, Sums]

    def __getitem__(self, moment: str) -> dict[str, Tensor]:
        return self.moments[moment].tensors

    @property
    def covariance(self) -> Float[Tensor, "*experts in in"]:
        """H, the gradient-weighted input covariance, a mean over tokens."""
        return self["covariance"]["covariance"] / self.tokens

    @property
    def tokens(self) -> int:
        """Tokens that the sums are over."""
        return self._any.tokens

    @property
    def sequences(self) -> Int[Tensor, "sequences"]:
        """Tokens of each sequence, 0 for those left out."""
        return self._any.sequences.clamp_min(0)

    @property
    def reached(self) -> Bool[Tensor, "*experts"]:
        """Which matrices any gradient came to; the sums of the others are zero."""
        return self._any.reached

    @property
    def rows(self) -> Int[Tensor, "*experts"]:
        """Tokens that reached each matrix."""
        return self._any.rows

    @property
    def _any(self) -> Sums:
        return next(iter(self.moments.values()))

    def completed(self) -> "LayerStatistics":
        """The same, with the mean of the reached experts for those that were not."""
        moments = {name: sums.completed() for name, sums in self.moments.items()}
        return LayerStatistics(moments=moments)


@dataclass(frozen=True, kw_only=True)
class StatisticsFolder:
    """Statistics on disk: a file for each layer and moment.

    `folder` belongs to one model, one set of calibration sequences and one kind of labels. What is
    not complete has a file of its own: one process never puts that in place of what another needs.
    """

    folder: Path
    sequences: int

    def path(self, layer: Layer, moment: str) -> Path:
        """Where one complete moment of one layer lies."""
        return self.folder / layer.name / f"{moment}.safetensors"

    def partial(self, layer: Layer, moment: str) -> Path:
        """Where it lies until then."""
        return self.folder / layer.name / f"{moment}.partial.safetensors"

    def find(self, layer: Layer, moment: str) -> Sums | None:
        """A moment as far as it came, mapped from its file."""
        for path in (self.path(layer, moment), self.partial(layer, moment)):
            found = Sums.load(moment, layer, path, sequences=self.sequences)
            if found is not None:
                return found
        return None

    def has(self, layer: Layer, moment: str) -> bool:
        """Whether a moment is there, complete, and over any tokens at all."""
        found = self.find(layer, moment)
        return found is not None and found.is_complete and found.tokens > 0

    def lacking(self, layers: Iterable[Layer], moments: Iterable[str]) -> dict[Layer, list[str]]:
        """The moments that are not there, or not complete, by layer.

        Of those that are, what an interrupt has left of the way there is removed.
        """
        names, found = tuple(moments), dict[Layer, list[str]]()
        for layer in layers:
            for name in names:
                if self.has(layer, name):
                    self.partial(layer, name).unlink(missing_ok=True)
                else:
                    found.setdefault(layer, []).append(name)
        return found

    def save(self, layer: Layer, sums: Sums) -> None:
        """Write a moment, whole or as far as it came."""
        partial = self.partial(layer, sums.moment)
        if not sums.is_complete:
            sums.save(partial)
            return
        sums.save(self.path(layer, sums.moment))
        partial.unlink(missing_ok=True)

    def read(self, layer: Layer, moments: Sequence[str]) -> LayerStatistics:
        """The complete moments of a layer; raises `InputError` where they are no more."""
        found = {moment: self.find(layer, moment) for moment in moments}
        whole = {name: sums for name, sums in found.items() if sums and sums.is_complete}
        if len(whole) < len(found):
            raise InputError(
                f"Statistics of {layer.name} in {self.folder} were removed or damaged while they "
                "were in use. Run the same command again: it gathers what is missing."
            )
        return LayerStatistics(moments=whole)

    def completed(self, layer: Layer, moments: Sequence[str]) -> LayerStatistics:
        """The same, with the mean of the reached experts for those that were not."""
        found = self.read(layer, moments)
        if found.reached.any():
            return found.completed()
        siblings = self._siblings(layer)
        filled = {}
        for name, sums in found.moments.items():
            beside = (self.find(sibling, name) for sibling in siblings)
            filled[name] = sums.or_mean([one for one in beside if one is not None])
        return LayerStatistics(moments=filled)

    def _siblings(self, layer: Layer) -> list[Layer]:
        """The same weight of the other experts, where each expert is a module of its own."""
        expert = EXPERT.fullmatch(layer.name)
        if expert is None:
            return []
        pattern = f"{glob.escape(expert[1])}*{glob.escape(expert[2])}"
        names = sorted(path.name for path in self.folder.glob(pattern))
        return [
            layer.model_copy(update={"name": name})
            for name in names
            if (other := EXPERT.fullmatch(name)) and other.groups() == expert.groups()
        ]


EXPERT = re.compile(r"(.*\bexperts\.(?:expert_)?)\d+(\..+)")
"""The name of a weight of an expert that is a module: what is before its number, and after it."""
