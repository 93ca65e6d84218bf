"""What every estimator has in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.statistics import LayerStatistics


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of a layer's weight, and the error that a scheme makes in them.

    `norm` is the squared norm of the whole weight. Losses of parts add up to the layer's.
    """

    error: Float[Tensor, "*experts rows in"]
    weight: Float[Tensor, "*experts rows in"]
    rows: slice
    norm: float
    statistics: LayerStatistics


class AbstractEstimator(ABC):
    """Judges errors of one layer from its statistics.

    `moments` names what it reads of `bitplan.sensitivity.moments`, gathered with `labels`.
    `by_rows`: rows may be judged apart. `version` is raised when an estimator comes to say
    otherwise: what was kept of an older one is judged again.
    """

    moments: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    by_rows: ClassVar[bool] = True
    labels: str = "data"

    @abstractmethod
    def judge(self, part: Part) -> Losses:
        """Expected increase of KL in nats per token, or what stands for it."""


def without_data(loss: float) -> Losses:
    """A loss that no sequence has a part in."""
    return Losses(loss=loss, by_sequence=np.empty(0))
