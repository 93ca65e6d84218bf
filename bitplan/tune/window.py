"""Some neighbouring blocks: what of them is learned, and how far they are from what is wanted."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.evaluate import batches
from bitplan.models import wide_matmuls
from bitplan.models.chain import Chain
from bitplan.modules import PackedWeight
from bitplan.tune.descent import take_gradients, trained
from bitplan.tune.latent import Latent, learnable
from bitplan.tune.lessons import Lesson
from bitplan.tune.numbers import numbers_of, packed_weights


class Window:
    """Neighbouring blocks of a chain, packed and laid out as they are stored.

    `originals` are the weights that were packed, as far as their codes can be learned.
    """

    def __init__(
        self, chain: Chain, indices: range, originals: Mapping[PackedWeight, Tensor]
    ) -> None:
        self.chain, self.indices = chain, indices
        self.modules = nn.ModuleDict({str(index): chain.blocks[index] for index in indices})
        self.numbers = list(numbers_of(self.modules))
        self.latents = {}
        for name, weight in packed_weights(self.modules).items():
            if weight in originals and Latent.fits(weight):
                self.latents[name] = Latent(weight, originals[weight])
        self.numbers += [one.number(f"{name}.codes") for name, one in self.latents.items()]

    def write_codes(self) -> None:
        """Give the weights the codes that were learned."""
        for latent in self.latents.values():
            latent.write()

    def tensors(self) -> dict[str, Tensor]:
        """What was learned, by its name in the model."""
        kept, stored = {number.name for number in self.numbers}, self.modules.state_dict()
        return {f"{self.chain.path}.{name}": stored[name] for name in stored if name in kept}


class Reconstruction:
    """The weighted squared error of a window's output, as a share of what is wanted, squared.

    That is what `bitplan.tune.descent.Objective` asks for.
    """

    def __init__(self, window: Window, lessons: Lesson, judged: Lesson) -> None:
        self.window, self.lessons, self.judged = window, lessons, judged
        self.size = {id(one): _size(one) for one in (lessons, judged)}

    def look(self) -> float:
        """On what it is judged on."""
        total = 0.0
        with torch.no_grad(), self._run():
            for part in batches(self.judged.stream.inputs):
                total += self._error(self.judged, part).item()
        if not math.isfinite(total):
            raise ModelError(
                f"What block {self.window.indices[-1]} gives is not finite once it is packed. Make "
                "a plan with a larger budget, or load the model in bfloat16 or float32."
            )
        return total / len(self.judged.wanted)

    def gradient(self, chosen: list[int], into: list[Tensor]) -> None:
        """Of the mean over some lessons."""
        with torch.enable_grad(), self._run(), trained(self.window.modules, self.window.numbers):
            for part in batches(self.lessons.stream.inputs[chosen]):
                (self._error(self.lessons, chosen[part]) / len(chosen)).backward()
                take_gradients(self.window.numbers, into)

    @contextmanager
    def _run(self) -> Iterator[None]:
        with wide_matmuls(), learnable(list(self.window.latents.values())):
            yield

    def _error(self, lesson: Lesson, chosen: slice | list[int]) -> Float[Tensor, ""]:
        """Summed over some sequences; of all, it has a mean that is a share."""
        stream = lesson.stream
        calls, hidden = stream.calls(chosen), stream.hidden[chosen]
        for index in self.window.indices:
            hidden = stream.chain.block(index, hidden, calls[index])
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
