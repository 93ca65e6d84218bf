"""What the estimators that look at the model itself have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

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
    the calibration sequences `tokens` [sequences, length], with the labels the estimator asks for.
    """

    model: nn.Module
    tokens: Int[Tensor, "sequences length"]
    through: AbstractPass
    decode: Decode
    progress: Progress = quiet


class AbstractModelEstimator(ABC):
    """Judges rendered weights on the model itself, a group of layers at a time."""

    labels: ClassVar[str] = "data"

    @abstractmethod
    def judge(self, bench: Bench, schemes: Schemes) -> Iterator[Judged]:
        """The losses of each layer, in nats per token; each layer as soon as it is known."""
