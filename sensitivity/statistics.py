"""What one layer's moments came to: for estimators to read, and as they lie in a folder."""

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool, Float, Int
from torch import Tensor

from bitplan.errors import InputError
from bitplan.schema import Layer
from bitplan.sensitivity.sums import Sums

GATHERED = 2
"""Raised when a moment comes to sum otherwise: what an earlier version gathered is not read."""


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
        """The same weight of the other experts, where each expert is a layer."""
        around = around_number(layer)
        if around is None:
            return []
        before, after = around
        is_expert = re.compile(rf"{re.escape(before)}\d+{re.escape(after)}").fullmatch
        pattern = f"{glob.escape(before)}*{glob.escape(after)}"
        names = sorted(path.name for path in self.folder.glob(pattern))
        return [layer.model_copy(update={"name": name}) for name in names if is_expert(name)]


def around_number(layer: Layer) -> tuple[str, str] | None:
    """What is before the number of a layer's expert, and after it; None where it is of no one's."""
    if layer.expert is not None:
        return f"{layer.parameter}.", ""
    found = _EXPERT.fullmatch(layer.name)
    return (found[1], found[2]) if found else None


_EXPERT = re.compile(r"(.*\bexperts\.(?:expert_)?)\d+(\..+)")
"""The name of a weight of an expert that is a module: what is before its number, and after it."""
