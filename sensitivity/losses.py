"""What an estimator says of one error, sequence by sequence, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

RESAMPLES = 1024
"""Bootstrap samples of the calibration sequences."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Expected increase of KL, in nats per token, on each calibration sequence.

    `by_sequence` [sequences, *draws] has mean `loss`; it is empty where an estimator reads no data.
    Draws have noise of their own, and each is right on average. `is_guess`: nothing was measured,
    so the error may be as large as the loss.
    """

    loss: float
    by_sequence: np.ndarray
    is_guess: bool = False

    @property
    def standard_error(self) -> float:
        """Of the loss, by the bootstrap over calibration sequences (Efron, 1979)."""
        if self.is_guess or len(self.by_sequence) == 1:
            return self.loss
        return _spread(self.by_sequence)

    def is_separate_from(self, other: "Losses", errors: float = 2.0) -> bool:
        """Whether the paired difference is more than so many of its standard errors."""
        if self.is_guess or other.is_guess or len(self.by_sequence) == 1:
            return False
        difference = abs(self.loss - other.loss)
        if not len(self.by_sequence):
            return difference > 0
        return difference > errors * _spread(self.by_sequence - other.by_sequence)


def total(parts: Sequence[Losses]) -> Losses:
    """The losses of parts of one weight, added up."""
    return Losses(
        loss=sum(part.loss for part in parts),
        by_sequence=np.sum([part.by_sequence for part in parts], axis=0),
        is_guess=any(part.is_guess for part in parts),
    )


def _spread(by_sequence: np.ndarray) -> float:
    count = len(by_sequence)
    if count < 2:
        return 0.0
    draws = by_sequence.reshape(count, -1)
    variance = (_resamples(count) @ draws.mean(1)).var() * count / (count - 1)
    if draws.shape[1] > 1:
        noise = draws.var(1, ddof=1).mean() / draws.size
        # The draws' own noise is no spread of sequences. Where that is most of it, what would be
        # left is noise as well, and might be nothing.
        variance = max(variance - noise, variance / 4)
    return float(variance**0.5)


@cache
def _resamples(count: int) -> np.ndarray:  # [resamples, sequences], each row sums to one
    # The same for all layers and schemes, so that their differences are paired.
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    return np.stack([np.bincount(row, minlength=count) for row in drawn]) / count
