"""The plain way: one sequence after another, forward and backward through the whole model."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.models import Inputs, eager_experts, explained, positions, wide_matmuls
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer
from bitplan.sensitivity.objective import objective
from bitplan.sensitivity.passes.passes import AbstractPass, Sighting
from bitplan.sensitivity.watch import Seen, watch


@dataclass(frozen=True, kw_only=True)
class WholeModel(AbstractPass):
    """All layers in one group: the activations of one sequence are in memory at a time.

    `tokens` may be whatever else the model reads, too. The model stays as it is, down to its
    gradients.
    """

    model: nn.Module
    tokens: Int[Tensor, "sequences length"] | Inputs
    labels: str = "data"
    progress: Progress = quiet

    @property
    def tokens_each(self) -> int:
        """Tokens in one sequence: positions of the model's output."""
        return self._positions

    @cached_property
    def _positions(self) -> int:
        with torch.no_grad():
            return positions(self.model, Inputs.of(self.tokens))

    def groups(self, layers: Sequence[Layer]) -> Generator[list[Layer], None, None]:
        """One group of all."""
        if layers:
            yield list(layers)

    def run(self, group: Sequence[Layer], *, first: int = 0) -> Generator[Sighting, None, None]:
        """Send every sequence through."""
        seen: list[Seen] = []
        with eager_experts(self.model), watch(self.model, group, seen.append):
            for index in range(first, len(self.tokens)):
                self.progress("statistics", index, len(self.tokens))
                is_finite = self._backward(index)
                yield index, list(seen) if is_finite else None
                seen.clear()
        self.progress("statistics", len(self.tokens), len(self.tokens))

    def _backward(self, index: int) -> bool:
        with torch.enable_grad():
            sequence = Inputs.of(self.tokens)[index : index + 1]
            loss = objective(self.model, sequence, labels=self.labels)
            is_finite = bool(loss.isfinite())
            if is_finite and loss.requires_grad:
                with explained(self.model, "be differentiated"), wide_matmuls():
                    loss.backward()
        return is_finite
