"""Exactly with at most so many schemes: a best-first search over the sets that a plan may use.

A node of the search allows some schemes and has settled that it uses some of them. Its relaxation,
without the schemes that it does not allow, bounds every plan below it; a node that allows no more
schemes than there may be is a problem without that limit. The node of lowest bound comes first, so
the search ends when that is no lower than the best plan's loss (Land and Doig 1960). It begins with
sets that do well at the relaxation's price: a good plan is there soon, and most nodes are above it.
"""

import heapq
import itertools
import math
import time
from dataclasses import dataclass, replace

import numpy as np

from bitplan.allocator.core import NAME
from bitplan.allocator.dual import Relaxed
from bitplan.allocator.dynamic_programming import dynamic_programming
from bitplan.allocator.few_schemes import few_schemes
from bitplan.allocator.hull import Hull
from bitplan.allocator.limited import best_at_hand, best_within_limits, unfound
from bitplan.allocator.prices import best_prices
from bitplan.allocator.problem import ROUNDING, Problem, Solution, Status
from bitplan.errors import ConflictError, InfeasibleError, TimeLimitError

FIRST_SETS = 3
"""That are solved before the search."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """Some sets of schemes, and a bound on the loss of every plan that uses one of them."""

    allowed: np.ndarray  # [schemes] bool
    settled: np.ndarray  # [schemes] bool, of the allowed
    used: np.ndarray  # [schemes] int, rows by scheme of the relaxation's choice
    price: float  # nats per token and byte, of the bound
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
        self.relaxed = Relaxed.of(problem, best_prices(problem, (end - time.monotonic()) / 4))
        self.best: np.ndarray | None = None
        self.loss = math.inf
        self.nodes: list[tuple[float, int, int, Node]] = []
        self.order = itertools.count()
        self.solved: set[bytes] = set()
        self.cut = math.inf  # bound of what was left unsearched

    def run(self, start: np.ndarray | None) -> Solution:
        self.best = best_at_hand(self.problem, [start])
        if self.best is not None:
            self.loss = self.problem.loss_of(self.best)
        every = self.problem.legal.sum(axis=0) > 0
        self._open(every, np.zeros_like(every), 0.0)
        if self.nodes and every.sum() > self.most:
            self._begin(self.nodes[0][-1])
        while self.nodes and self.nodes[0][0] < self.loss * (1 - ROUNDING):
            if time.monotonic() > self.end:
                break
            node = heapq.heappop(self.nodes)[-1]
            if node.allowed.sum() <= self.most:
                self._solve(node)
            else:
                self._branch(node)
        return self._solution()

    def _begin(self, root: Node) -> None:
        """Solve within sets that do well at a price: the root's, then each set's own."""
        price = root.price
        for _ in range(FIRST_SETS):
            chosen = few_schemes(self.relaxed.loss + price * self.relaxed.extra, self.most)
            allowed = np.isin(np.arange(len(root.allowed)), chosen)
            node = self._node(allowed, allowed, price)
            if len(chosen) > self.most or node is None or not self._solve(node):
                return
            price = node.price

    def _open(self, allowed: np.ndarray, settled: np.ndarray, price: float) -> None:
        """Put a node on the heap, unless no plan better than the best is in it."""
        if settled.sum() == self.most:
            allowed = settled
        node = self._node(allowed, settled, price)
        if node is not None and node.bound < self.loss * (1 - ROUNDING):
            self._push(node)

    def _node(self, allowed: np.ndarray, settled: np.ndarray, price: float) -> Node | None:
        """The node of some sets; None where nothing in them fits. `price` is a guess of its own."""
        found = self.relaxed.among(allowed, price=price, enough=self.loss)
        if found is None:
            return None
        used = np.bincount(found.choice, minlength=len(allowed))
        return Node(
            allowed=allowed, settled=settled, used=used, price=found.price, bound=found.bound
        )

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
            self._open(node.allowed, node.settled | one, node.price)
        self._open(node.allowed & ~one, node.settled, node.price)

    def _solve(self, node: Node) -> bool:
        """Solve within the schemes of a node, exactly; whether they were new."""
        key = node.allowed.tobytes()
        if key in self.solved:
            return False
        self.solved.add(key)
        part = among(self.problem, node.allowed)
        assert part is not None
        try:
            solution = _best_within(part, end=self.end, start=self.best)
        except (InfeasibleError, ConflictError):
            return True
        except TimeLimitError:
            self.cut = min(self.cut, node.bound)
            return True
        self.cut = min(self.cut, max(node.bound, solution.lower_bound))
        if solution.loss < self.loss:
            self.best, self.loss = solution.choice, solution.loss
        return True

    def _solution(self) -> Solution:
        is_cut = bool(self.nodes) and self.nodes[0][0] < self.loss * (1 - ROUNDING)
        bound = min(self.cut, self.nodes[0][0]) if is_cut else self.cut
        if self.best is not None:
            status = Status.TIME_LIMIT if is_cut else Status.WITHIN_GAP
            return Solution.of(self.problem, self.best, min(self.loss, bound), status, NAME)
        raise unfound(self.problem, proven=bound == math.inf)


def _best_within(problem: Problem, *, end: float, start: np.ndarray | None) -> Solution:
    """`best_within_limits`, and where the bytes are the only limit by the quicker way."""
    if not problem.limits:
        hull = Hull.of(problem)
        hull.check(problem)
        left_s = end - time.monotonic()
        usable = start if start is not None and problem.fits(start) else None
        solution = dynamic_programming(problem, hull, time_limit_s=left_s, start=usable)
        if solution.gap == 0 or time.monotonic() > end:
            return solution
        start = solution.choice
    return best_within_limits(problem, end=end, start=start)


def among(problem: Problem, allowed: np.ndarray) -> Problem | None:
    """The problem with some of its schemes [schemes] and no most number of them.

    None where a row has none of them.
    """
    legal = problem.legal & allowed
    if not legal.any(axis=1).all():
        return None
    loss = np.where(legal, problem.loss, np.inf)
    return replace(problem, loss=loss, legal=legal, most_schemes=None)
