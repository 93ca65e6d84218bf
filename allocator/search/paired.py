"""Whether one plan is better than another on the same sequences, or only luckier."""

import numpy as np

ERRORS = 1.0
"""Standard errors of the paired difference by which a KL must fall for a plan to be accepted."""


def difference(kl: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Mean of kl - other, both [sequences], and the standard error of that mean.

    >>> difference(np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 5.0]))
    (-1.0, 0.0)
    """
    with np.errstate(invalid="ignore"):
        each = np.where(np.isinf(kl), np.inf, kl - other)
    if not np.isfinite(each).all():
        return float("inf"), 0.0
    error = each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else 0.0
    return float(each.mean()), float(error)


def falls(kl: np.ndarray, other: np.ndarray, errors: float = ERRORS) -> bool:
    """Whether `kl` is below `other` by more than so many standard errors."""
    mean, error = difference(kl, other)
    return mean < -errors * error and mean < 0
