"""The model as a search sees it: plans go in, their KL by sequence comes out."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from bitplan.schema import Scheme

Assignment: TypeAlias = Mapping[str, Scheme]
"""Scheme by layer name."""

Slopes: TypeAlias = Mapping[str, Mapping[Scheme, np.ndarray]]
"""Layer name -> scheme -> what going there from a plan does to the KL to first order, nats per
token, by lesson [lessons]."""


class Evaluator(Protocol):
    """What measures plans on the model, always on the same sequences of tokens."""

    @property
    def sequences(self) -> int:
        """Sequences that plans are compared on."""
        ...

    @property
    def tokens_each(self) -> int:
        """Tokens in a sequence."""
        ...

    @property
    def lessons(self) -> int:
        """Sequences that gradients are taken on: others, lest plans fit what accepts them."""
        ...

    @property
    def lesson_tokens(self) -> int:
        """Tokens in one of those."""
        ...

    def measure_many(
        self, assignments: Sequence[Assignment], sequences: Sequence[int]
    ) -> list[np.ndarray]:
        """Of each plan the KL of the whole model on some sequences [sequences], nats per token.

        The plans do not depend on one another: they may be measured side by side.
        """
        ...

    def slopes(self, assignment: Assignment, lessons: Sequence[int]) -> Slopes | None:
        """What every single change of a plan would do, to first order; None: it cannot tell."""
        ...
