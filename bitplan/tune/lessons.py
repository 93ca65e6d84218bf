"""What blocks are trained on."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from bitplan.models import Inputs
from bitplan.tune.streams import Stream


@dataclass(frozen=True, kw_only=True, eq=False)
class Lessons:
    """Sequences, and how much an error at each position of each block's output matters."""

    inputs: Inputs
    matters: Float[Tensor, "blocks sequences *positions"]

    def first(self, sequences: int) -> "Lessons":
        """So many of them."""
        return self._some(slice(sequences))

    def apart(self, most: int) -> tuple["Lessons", "Lessons"]:
        """All but the last eighth of them, of `most` at most, and those; of one alone, it twice."""
        count = len(self.inputs)
        if count == 1:
            return self, self
        kept = count - min(most, max(1, count // 8))
        return self._some(slice(kept)), self._some(slice(kept, count))

    def _some(self, some: slice) -> "Lessons":
        return Lessons(inputs=self.inputs[some], matters=self.matters[:, some])


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What goes into a window, what should come out, and how much that matters.

    `matters` has a mean of 1 and the shape of the hidden states, but for their width.
    """

    stream: Stream
    wanted: Float[Tensor, "sequences *positions width"]
    matters: Float[Tensor, "sequences *positions"]

    @classmethod
    def of(cls, stream: Stream, *, wanted: Tensor, matters: Tensor) -> "Lesson":
        """With `matters` on any scale."""
        return cls(stream=stream, wanted=wanted, matters=matters / matters.mean().clamp_min(1e-38))
