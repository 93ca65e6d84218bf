"""One moment of one layer, summed over the calibration sequences: in memory and in a file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
