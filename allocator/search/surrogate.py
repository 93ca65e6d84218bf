"""What is believed of the KL around a plan, after all that was measured: a Gaussian over items.

The KL of a plan near the incumbent is taken as the sum of one number f for each row's scheme.
Before anything is measured f is the table's loss L, times a factor that is uncertain: a part of it
common to all rows, parts common to the rows of one kind and of one depth, a part of each row, and
the rest each scheme's own,

    f_i = L_i (1 + all + kind + depth + row + own),    every part normal with mean 0.

So a measured plan teaches something of rows that it did not change. Both kinds of evidence are
linear in f, and the posterior is exact: that of Bayesian linear regression (Rasmussen and Williams,
2006, section 2.1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bitplan.allocator.problem import Problem

Items: TypeAlias = Iterable[np.ndarray]

SPREAD = {"all": 0.5, "kind": 0.4, "depth": 0.3, "row": 0.4, "own": 0.3}
"""Standard deviations of the parts of the factor."""

BEYOND = 0.15
"""How far a change is off for what a sum cannot say, as a share of it: interactions of rows."""

MAX_ITEMS = 4000
"""Up to which parts are shared: the covariance is dense. Of more items each stands for itself."""

JITTER = 1e-10
"""Of each item's variance before anything was measured, added before a draw: a Cholesky factor
needs some. Eigenvectors, which need none, take many times as long to find."""


@dataclass(kw_only=True)
class Surrogate:
    """Mean [items] and covariance [items, items] (or variances [items]) of f, nats per token.

    An item is a legal scheme of a row; `index` [rows, schemes] is its place, -1 where not legal.
    """

    index: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    prior: np.ndarray

    @classmethod
    def of(cls, problem: Problem, groups: Sequence[np.ndarray]) -> "Surrogate":
        """Before anything is measured. `groups` [rows] number the kinds, and the depths."""
        row, scheme = np.nonzero(problem.legal)
        index = np.full(problem.legal.shape, -1)
        index[row, scheme] = np.arange(row.size)
        loss = problem.loss[row, scheme]
        own = SPREAD["own"] ** 2
        if row.size > MAX_ITEMS:
            prior = loss**2 * sum(s**2 for s in SPREAD.values())
            return cls(index=index, mean=loss.copy(), covariance=prior.copy(), prior=prior)
        shared = np.full((row.size, row.size), SPREAD["all"] ** 2)
        for name, group in zip(("kind", "depth"), groups, strict=True):
            shared += SPREAD[name] ** 2 * (group[row][:, None] == group[row])
        shared += SPREAD["row"] ** 2 * (row[:, None] == row) + own * np.eye(row.size)
        prior = shared * loss[:, None] * loss
        return cls(index=index, mean=loss.copy(), covariance=prior, prior=prior)

    def loss(self) -> np.ndarray:
        """The mean of f [rows, schemes]; inf where not legal."""
        return self._spread(self.mean)

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """One f [rows, schemes] that could be the true one (Thompson 1933)."""
        noise = random.standard_normal(self.mean.size)
        if self.covariance.ndim == 1:
            return self._spread(self.mean + np.sqrt(self.covariance) * noise)
        # What was learnt can leave no variance in some direction, or by rounding less than none; an
        # item without loss never had any.
        jitter = JITTER * self.prior.diagonal() + np.finfo(float).tiny
        try:
            root = np.linalg.cholesky(self.covariance + np.diag(jitter))
        except np.linalg.LinAlgError:
            values, vectors = np.linalg.eigh(self.covariance)
            root = vectors * np.sqrt(values.clip(0))
        return self._spread(self.mean + root @ noise)

    def see_changes(self, around: np.ndarray, change: np.ndarray, error: np.ndarray) -> None:
        """Learn what single changes do: means and standard errors [rows, schemes], NaN: unknown."""
        rows = np.arange(len(around))
        known = np.isfinite(change) & (self.index >= 0)
        known[rows, around] = False
        row, scheme = np.nonzero(known)
        to, start = self.index[row, scheme], self.index[row, around[row]]
        noise = error[row, scheme] ** 2 + (BEYOND * change[row, scheme]) ** 2
        self._learn([to], [start], change[row, scheme], noise)

    def see_plan(self, choice: np.ndarray, around: np.ndarray, change: float, error: float) -> None:
        """Learn by how much the KL of a choice [rows] differs from that of another."""
        moved = np.flatnonzero(choice != around)
        if not moved.size or not np.isfinite(change):
            return
        to, start = self.index[moved, choice[moved]], self.index[moved, around[moved]]
        apart = np.abs(self.mean[to] - self.mean[start]).sum()
        noise = np.array([error**2 + (BEYOND * apart) ** 2])
        self._learn(to, start, np.array([change]), noise)

    def drift(self, share: float) -> None:
        """Forget a little: the sums around another plan are others."""
        self.covariance = self.covariance + share**2 * self.prior

    def _learn(self, to: Items, start: Items, seen: np.ndarray, noise: np.ndarray) -> None:
        """Condition on sum(f[to]) - sum(f[start]) = seen, for each observation with its noise."""
        noise = noise.clip(np.finfo(float).tiny)
        expected = sum(self.mean[i] for i in to) - sum(self.mean[i] for i in start)
        if self.covariance.ndim == 1:
            # Only differences matter: all that is learnt of one goes to the scheme it leads to.
            apart = [
                self.covariance[i] + self.covariance[j] for i, j in zip(to, start, strict=True)
            ]
            total = sum(apart) + noise
            for i, variance in zip(to, apart, strict=True):
                gain = variance / total
                self.mean[i] += gain * (seen - expected)
                self.covariance[i] = np.minimum(self.covariance[i], variance * (1 - gain))
            return
        # [items, observations]: the covariance of f with what is observed.
        cross = sum(self.covariance[:, i] for i in to) - sum(self.covariance[:, i] for i in start)
        cross = np.reshape(cross, (self.mean.size, seen.size))
        within = sum(cross[i] for i in to) - sum(cross[i] for i in start)
        within = np.reshape(within, (seen.size, seen.size))
        within[np.diag_indices(seen.size)] += noise
        gain = np.linalg.solve(within, cross.T).T
        self.mean = self.mean + gain @ (seen - expected)
        covariance = self.covariance - gain @ cross.T
        self.covariance = (covariance + covariance.T) / 2

    def _spread(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.index >= 0, values[self.index], np.inf)
