"""The relaxation's bound from a known price on, where the hull of all rows would take longer.

At any price on bytes, the least of loss + price * (bytes - budget) over all choices bounds the loss
of those that fit. As a function of the price that is concave and made of straight pieces, each the
line of one choice. Where the line of a choice that fits meets that of one that does not, either a
third choice is below both or the bound is as high as it can be (Kelley 1960, "The cutting-plane
method for solving convex programs"). From a price that is nearly right that takes a few turns.
"""

from dataclasses import dataclass, replace

import numpy as np

from bitplan.allocator.problem import ROUNDING, Problem

MOST_TURNS = 60
"""A bound is one at any price: so many turns are there for rounding that goes round in circles."""

_LARGE = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True, eq=False)
class Dual:
    """A bound, the price that it is for, and a choice of least loss at a price beside it."""

    choice: np.ndarray  # [rows] int, within the bytes
    price: float  # nats per token and byte
    bound: float  # nats per token


@dataclass(frozen=True, kw_only=True, eq=False)
class Relaxed:
    """A problem at prices on its limits beside the bytes, for bounds with some of its schemes."""

    loss: np.ndarray  # [rows, schemes], raised by the prices
    extra: np.ndarray  # [rows, schemes] int64, bytes above the row's smallest
    room: int  # for these, rounded down to what a choice can have
    constant: float  # nats per token, of the limits at their prices

    @classmethod
    def of(cls, problem: Problem, prices: np.ndarray) -> "Relaxed":
        """At prices [limits], nats per token and step, as `best_prices` gives them."""
        smallest = np.where(problem.legal, problem.bytes, _LARGE).min(axis=1)
        extra = np.where(problem.legal, problem.bytes - smallest[:, None], 0)
        room = problem.budget_bytes - int(smallest.sum())
        loss, constant = problem.loss.copy(), 0.0
        for limit, price in zip(problem.limits, prices.tolist(), strict=True):
            loss += price * limit.amounts
            constant += price * limit.most
        divisor = max(int(np.gcd.reduce(extra, axis=None)), 1)
        return cls(loss=loss, extra=extra, room=room - room % divisor, constant=constant)

    def among(self, allowed: np.ndarray, *, price: float, enough: float) -> Dual | None:
        """The bound with some schemes [schemes] bool; None where nothing with them fits the bytes.

        `price` is where the search for it begins, `enough` a bound that ends it.
        """
        columns = np.flatnonzero(allowed)
        loss = self.loss[:, columns]
        if not np.isfinite(loss).any(axis=1).all():
            return None
        # The terms may be far larger than their difference: what rounding can be is given away.
        constant = self.constant + ROUNDING * abs(self.constant)
        wanted = enough + constant
        found = best_dual(loss, self.extra[:, columns], self.room, price=price, enough=wanted)
        if found is None:
            return None
        return replace(found, choice=columns[found.choice], bound=found.bound - constant)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Line:
    """What a choice comes to at every price: loss + price * over."""

    choice: np.ndarray  # [rows] int
    loss: float
    over: int  # bytes above the budget

    def at(self, price: float) -> float:
        return self.loss + price * self.over


def best_dual(
    loss: np.ndarray, extra: np.ndarray, room: int, *, price: float = 0.0, enough: float = np.inf
) -> Dual | None:
    """The highest bound on the loss of the choices that fit; None where none does.

    Args:
        loss: [rows, schemes], nats per token; inf where not legal.
        extra: [rows, schemes] int64, bytes above what is in every choice of the row.
        room: bytes, for the sum of these.
        price: nats per token and byte, where to begin.
        enough: a bound that is as good as a higher one, which ends the search.
    """
    least = np.where(np.isfinite(loss), extra, _LARGE).min(axis=1)
    fits = _line(loss, extra, room, np.argmin(np.where(extra == least[:, None], loss, np.inf), 1))
    if fits.over > 0:
        return None
    beyond = _line(loss, extra, room, np.argmin(loss, axis=1))
    if beyond.over <= 0:
        return Dual(choice=beyond.choice, price=0.0, bound=beyond.loss)
    best, at = beyond.loss, 0.0
    for turn in range(MOST_TURNS):
        meet = max((fits.loss - beyond.loss) / (beyond.over - fits.over), 0.0)
        now = price if turn == 0 and price > 0 else meet
        found = _line(loss, extra, room, np.argmin(loss + now * extra, axis=1))
        bound = found.at(now)
        if bound > best:
            best, at = bound, now
        if best >= enough or (now == meet and bound >= fits.at(now) - ROUNDING * abs(fits.loss)):
            break
        if found.over > 0:
            beyond = found
        else:
            fits = found
    return Dual(choice=fits.choice, price=at, bound=best)


def _line(loss: np.ndarray, extra: np.ndarray, room: int, choice: np.ndarray) -> _Line:
    rows = np.arange(len(choice))
    over = int(extra[rows, choice].sum()) - room
    return _Line(choice=choice, loss=float(loss[rows, choice].sum()), over=over)
