"""The plain way: one sequence after another, forward and backward through the whole model."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.models import eager_experts
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer
from bitplan.sensitivity.objective import objective
from bitplan.sensitivity.passes.passes import AbstractPass
from bitplan.sensitivity.watch import Seen, watch


@dataclass(frozen=True, kw_only=True)
class WholeModel(AbstractPass):
    """All layers in one group: the activations of one sequence are in memory at a time.

    The model takes `input_ids` and returns next-token `logits`; it stays as it is, down to its
    gradients.
    """

    model: nn.Module
    tokens: Int[Tensor, "sequences length"]
    labels: str = "data"
    progress: Progress = quiet

    @property
    def tokens_each(self) -> int:
        """Tokens in one sequence."""
        return self.tokens.shape[1]

    def groups(self, layers: Sequence[Layer]) -> Iterator[list[Layer]]:
        """One group of all."""
        if layers:
            yield list(layers)

    def run(
        self, group: Sequence[Layer], *, first: int = 0
    ) -> Iterator[tuple[int, list[Seen] | None]]:
        """Send every sequence through."""
        for index in range(first, len(self.tokens)):
            self.progress("statistics", index, len(self.tokens))
            yield index, self._sequence(group, index)
        self.progress("statistics", len(self.tokens), len(self.tokens))

    def _sequence(self, group: Sequence[Layer], index: int) -> list[Seen] | None:
        seen: list[Seen] = []
        with torch.enable_grad(), ExitStack() as stack:
            stack.enter_context(eager_experts(self.model))
            stack.enter_context(watch(self.model, group, seen.append))
            loss = objective(self.model, self.tokens[index : index + 1], labels=self.labels)
            if not loss.isfinite():
                return None
            if loss.requires_grad:
                loss.backward()
        return seen
