"""Exactly with at most so many schemes: a best-first search over the sets that a plan may use.

A node of the search allows some schemes and has settled that it uses some of them. Its relaxation,
without the schemes that it does not allow, bounds every plan below it; a node that allows no more
schemes than there may be is a problem without that limit. The node of lowest bound comes first, so
the search ends when that is no lower than the best plan's loss (Land and Doig 1960).
"""

import heapq
import itertools
import math
import time
from dataclasses import dataclass, replace

import numpy as np

from bitplan.allocator.core import NAME
from bitplan.allocator.limited import best_at_hand, best_within_limits, unfound
from bitplan.allocator.prices import best_prices, priced_relaxation
from bitplan.allocator.problem import ROUNDING, Problem, Solution, Status
from bitplan.errors import ConflictError, InfeasibleError, TimeLimitError


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """Some sets of schemes, and a bound on the loss of every plan that uses one of them."""

    allowed: np.ndarray  # [schemes] bool
    settled: np.ndarray  # [schemes] bool, of the allowed
    used: np.ndarray  # [schemes] int, rows by scheme of the relaxation's choice
    bound: float  # nats per token


def best_of_sets(problem: Problem, *, end: float, start: np.ndarray | None = None) -> Solution:
    """The choice of least loss within all limits of a problem that has a `most_schemes`.

    Args:
        problem: what to solve.
        end: when to be done, by `time.monotonic`.
        start: a choice [rows] to be used where it fits.

    Raises:
        InfeasibleError: nothing fits the bytes.
        ConflictError: nothing keeps to all limits.
        TimeLimitError: the time was up before anything was found.
    """
    return _Search(problem, end).run(start)


class _Search:
    """The nodes that are open, and the best choice so far."""

    def __init__(self, problem: Problem, end: float) -> None:
        assert problem.most_schemes is not None
        self.problem, self.end, self.most = problem, end, problem.most_schemes
        self.prices = best_prices(problem, (end - time.monotonic()) / 4)
        self.best: np.ndarray | None = None
        self.loss = math.inf
        self.nodes: list[tuple[float, int, int, Node]] = []
        self.order = itertools.count()
        self.cut = math.inf  # bound of what was left unsearched

    def run(self, start: np.ndarray | None) -> Solution:
        self.best = best_at_hand(self.problem, [start])
        if self.best is not None:
            self.loss = self.problem.loss_of(self.best)
        every = self.problem.legal.sum(axis=0) > 0
        self._open(every, np.zeros_like(every))
        while self.nodes and self.nodes[0][0] < self.loss * (1 - ROUNDING):
            if time.monotonic() > self.end:
                break
            node = heapq.heappop(self.nodes)[-1]
            if node.allowed.sum() <= self.most:
                self._solve(node)
            else:
                self._branch(node)
        return self._solution()

    def _open(self, allowed: np.ndarray, settled: np.ndarray) -> None:
        """Put a node on the heap, unless no plan can be below it."""
        if settled.sum() == self.most:
            allowed = settled
        part = among(self.problem, allowed)
        if part is None:
            return
        try:
            relaxation = priced_relaxation(part, self.prices)
        except InfeasibleError:
            return
        used = np.bincount(relaxation.choice, minlength=len(allowed))
        self._push(Node(allowed=allowed, settled=settled, used=used, bound=relaxation.lower_bound))

    def _push(self, node: Node) -> None:
        # Of equal bounds the node that has settled most comes first: it leads to a plan soonest.
        key = node.bound, -int(node.settled.sum()), next(self.order)
        heapq.heappush(self.nodes, (*key, node))

    def _branch(self, node: Node) -> None:
        """With and without the scheme that most rows want, of those that are not settled."""
        column = int(np.argmax(np.where(node.allowed & ~node.settled, node.used, -1)))
        one = np.arange(len(node.allowed)) == column
        if node.settled.sum() + 1 < self.most:
            self._push(replace(node, settled=node.settled | one))
        else:
            self._open(node.allowed, node.settled | one)
        self._open(node.allowed & ~one, node.settled)

    def _solve(self, node: Node) -> None:
        """Solve within the schemes of a node, exactly."""
        part = among(self.problem, node.allowed)
        assert part is not None
        try:
            solution = best_within_limits(part, end=self.end, start=self.best)
        except (InfeasibleError, ConflictError):
            return
        except TimeLimitError:
            self.cut = min(self.cut, node.bound)
            return
        self.cut = min(self.cut, max(node.bound, solution.lower_bound))
        if solution.loss < self.loss:
            self.best, self.loss = solution.choice, solution.loss

    def _solution(self) -> Solution:
        is_cut = bool(self.nodes) and self.nodes[0][0] < self.loss * (1 - ROUNDING)
        bound = min(self.cut, self.nodes[0][0]) if is_cut else self.cut
        if self.best is not None:
            status = Status.TIME_LIMIT if is_cut else Status.WITHIN_GAP
            return Solution.of(self.problem, self.best, min(self.loss, bound), status, NAME)
        raise unfound(self.problem, proven=bound == math.inf)


def among(problem: Problem, allowed: np.ndarray) -> Problem | None:
    """The problem with some of its schemes [schemes] and no most number of them.

    None where a row has none of them.
    """
    legal = problem.legal & allowed
    if not legal.any(axis=1).all():
        return None
    loss = np.where(legal, problem.loss, np.inf)
    return replace(problem, loss=loss, legal=legal, most_schemes=None)
