"""What the estimators that look at the model itself have in common."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
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

log = logging.getLogger(__name__)

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


def is_usable(values: Tensor, sequence: int) -> bool:
    """Whether what the model makes of a sequence is finite; a warning says which is left out."""
    if values.isfinite().all():
        return True
    warn_of(sequence)
    return False


def warn_of(sequence: int) -> None:
    """Say that a calibration sequence is left out."""
    log.warning(
        "Calibration sequence %d is left out: the model's outputs are not finite.", sequence
    )


def check_some(usable: Sized) -> None:
    """Raise `ModelError` where no sequence is left."""
    if not usable:
        raise ModelError(
            "On every calibration sequence the model's outputs are not finite. Check its weights "
            "and the text, or load it in a wider dtype: bfloat16 in place of float16, or float32."
        )


class AbstractModelEstimator(ABC):
    """Judges rendered weights on the model itself, a group of layers at a time.

    `jointly`: what is said of one scheme depends on all that are judged with it, so that a part of
    them is never judged alone. `version` is raised when an estimator comes to say otherwise.
    """

    labels: ClassVar[str] = "data"
    version: ClassVar[int] = 1
    jointly: ClassVar[bool] = False

    @abstractmethod
    def judge(self, bench: Bench, schemes: Schemes) -> Iterator[Judged]:
        """The losses of each layer, in nats per token; each layer as soon as it is known."""
