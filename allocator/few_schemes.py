"""A few schemes that do well together at a price on bytes: where a search over sets begins.

At a price every row takes the scheme of least priced loss, and to choose the schemes is the problem
of the p-median: all, then without the one that is missed least, and again, until there are few
enough; then one for another for as long as that helps (Teitz and Bart 1968, "Heuristic methods for
estimating the generalized vertex median of a weighted graph").
"""

import numpy as np


def few_schemes(priced: np.ndarray, most: int) -> np.ndarray:
    """At most so many columns [few] of priced losses [rows, schemes], inf where not legal.

    More where no other can be left out without leaving a row with none that is legal.
    """
    chosen = np.flatnonzero(np.isfinite(priced).any(axis=0))
    while len(chosen) > most:
        first, second, owner = _two_least(priced[:, chosen])
        missed = np.bincount(owner, weights=second - first, minlength=len(chosen))
        if np.isinf(missed).all():
            break
        chosen = np.delete(chosen, int(np.argmin(missed)))
    return _exchanged(priced, chosen)


def _exchanged(priced: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The columns after the best exchanges of one for one, until none helps."""
    others = np.setdiff1d(np.arange(priced.shape[1]), chosen)
    for _ in range(len(others)):
        first, second, owner = _two_least(priced[:, chosen])
        # What is left without each of the chosen [chosen, rows], each other one in its place.
        left = np.where(owner == np.arange(len(chosen))[:, None], second, first)
        totals = np.array([np.minimum(one[:, None], priced[:, others]).sum(0) for one in left])
        out, into = np.unravel_index(int(np.argmin(totals)), totals.shape)
        if not totals[out, into] < first.sum():
            break
        chosen[out], others[into] = others[into], chosen[out]
    return np.sort(chosen)


def _two_least(priced: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row [rows] the least and the second least value, and the column of the least."""
    owner = np.argmin(priced, axis=1)
    rows = np.arange(len(owner))
    rest = priced.copy()
    rest[rows, owner] = np.inf
    return priced[rows, owner], rest.min(axis=1), owner
