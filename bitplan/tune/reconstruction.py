"""How far what is learned is from what is wanted: the objective of training by blocks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.evaluate import batches
from bitplan.models import wide_matmuls
from bitplan.tune.descent import take_gradients, trained
from bitplan.tune.lessons import Lesson
from bitplan.tune.numbers import Number
from bitplan.tune.streams import Stream


class Learner(Protocol):
    """One block or some, of which numbers are learned. `modules` holds them."""

    modules: nn.Module
    numbers: list[Number]

    @property
    def name(self) -> str:
        """For people."""
        ...

    def learning(self) -> AbstractContextManager[None]:
        """Within this block `run` goes by the numbers."""
        ...

    def run(self, stream: Stream, chosen: slice | Sequence[int]) -> Tensor:
        """The output for some sequences."""
        ...


class Reconstruction:
    """The weighted squared error of a learner's output, as a share of what is wanted, squared.

    That is what `bitplan.tune.descent.Objective` asks for.
    """

    def __init__(self, learner: Learner, lessons: Lesson, judged: Lesson) -> None:
        self.learner, self.lessons, self.judged = learner, lessons, judged
        self.size = {id(one): _size(one) for one in (lessons, judged)}

    def look(self) -> float:
        """On what it is judged on."""
        total = 0.0
        with torch.no_grad(), self._run():
            for part in batches(self.judged.stream.inputs):
                total += self._error(self.judged, part).item()
        if not math.isfinite(total):
            raise ModelError(
                f"What {self.learner.name} gives is not finite with its weights rounded. Load the "
                "model in bfloat16 or float32, or make a plan with a larger budget."
            )
        return total / len(self.judged.wanted)

    def gradient(self, chosen: list[int], into: list[Tensor]) -> None:
        """Of the mean over some lessons."""
        learner = self.learner
        with torch.enable_grad(), self._run(), trained(learner.modules, learner.numbers):
            for part in batches(self.lessons.stream.inputs[chosen]):
                (self._error(self.lessons, chosen[part]) / len(chosen)).backward()
                take_gradients(learner.numbers, into)

    @contextmanager
    def _run(self) -> Iterator[None]:
        with wide_matmuls(), self.learner.learning():
            yield

    def _error(self, lesson: Lesson, chosen: slice | list[int]) -> Float[Tensor, ""]:
        """Summed over some sequences; of all, it has a mean that is a share."""
        hidden = self.learner.run(lesson.stream, chosen)
        squares = (hidden.float() - lesson.wanted[chosen].float()).square().mean(-1)
        each = squares.mul(lesson.matters[chosen]).flatten(1).mean(1).sum()
        return each / self.size[id(lesson)]


def _size(lesson: Lesson) -> float:
    """The weighted mean square of what is wanted."""
    total = sum(
        (wanted.float().square().mean(-1) * matters).mean().item()
        for wanted, matters in zip(lesson.wanted, lesson.matters, strict=True)
    )
    return max(total / len(lesson.wanted), 1e-30)
