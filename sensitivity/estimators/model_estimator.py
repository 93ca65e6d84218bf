"""What the estimators that look at the model itself have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models import Inputs
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.passes import AbstractPass

Schemes = Mapping[Layer, Sequence[Scheme]]
"""The schemes of each layer that are to be judged."""

Judged = tuple[Layer, dict[Scheme, Losses]]
"""A layer and the losses of its schemes."""

Decode = Callable[[Layer, Scheme], Float[Tensor, "*experts out in"]]
"""The weight of a layer as rendered in a scheme, in the layer's own dtype."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What an estimator has to work with.

    The model is lent: whatever is done to it is undone. `through` runs it forward and backward over
    the calibration sequences `tokens`, with the labels the estimator asks for.
    """

    model: nn.Module
    tokens: Int[Tensor, "sequences length"] | Inputs
    through: AbstractPass
    decode: Decode
    progress: Progress = quiet

    @property
    def text(self) -> Int[Tensor, "sequences length"]:
        """The sequences, of tokens alone. Raises `ModelError` where they are something else."""
        inputs = Inputs.of(self.tokens)
        if inputs.ids is None or not inputs.is_text:
            raise ModelError(
                f"{type(self.model).__name__} reads {', '.join(inputs.tensors)}, but this "
                "estimator needs next-token logits. Choose another estimator."
            )
        return inputs.ids


class AbstractModelEstimator(ABC):
    """Judges rendered weights on the model itself, a group of layers at a time.

    `jointly`: what is said of one scheme depends on all that are judged with it, so that a part of
    them is never judged alone.
    """

    labels: ClassVar[str] = "data"
    jointly: ClassVar[bool] = False

    @abstractmethod
    def judge(self, bench: Bench, schemes: Schemes) -> Iterator[Judged]:
        """The losses of each layer, in nats per token; each layer as soon as it is known."""
