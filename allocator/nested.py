"""Plans that only promote: as the budget grows, no row ever loses bytes.

The relaxation of this costs nothing: the hull's own plans are nested. What costs is the last bytes
of each budget, and rows so large that they have to wait for a budget that holds them. So two chains
of plans are made, each plan is solved again between its neighbours until none improves, and the
better chain stays.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from bitplan.allocator.constraints import Constraints
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.allocator.plan import plan_of
from bitplan.allocator.problem import ROUNDING, Problem, Solution
from bitplan.schema import CostTable, Plan

Chain: TypeAlias = list[np.ndarray]
"""A choice [rows] for each budget, the smallest first."""


def nest(
    problem: Problem,
    budgets: Sequence[int],
    free: Sequence[Solution],
    solver: Callable[..., Solution],
    *,
    time_limit_s: float = 60.0,
) -> Chain:
    """Choices that fit their budgets; no row has fewer bytes, or more loss, than at a smaller one.

    Each is as good as the solver can make it while the others stay; with an exact one, the best.

    Args:
        problem: the rows, whatever the budget.
        budgets: bytes for the rows, rising, none below the smallest choice.
        free: a solution of each budget alone: what a chain loses counts relative to theirs.
        solver: one of `SOLVERS`.
        time_limit_s: for all; the chain is then as good as it came to be.
    """
    end = time.monotonic() + time_limit_s
    problem = _undominated(problem)
    hull = Hull.of(problem)
    prefixes = [hull.within(budget_bytes)[0] for budget_bytes in budgets]
    chains = [
        _settled(problem, budgets, chain, lagrangian, end)
        for chain in (prefixes, _downward(problem, budgets))
    ]

    def loss_of(chain: Chain) -> float:
        pairs = zip(chain, free, strict=True)
        return math.fsum(problem.loss_of(choice) / one.loss for choice, one in pairs if one.loss)

    return _settled(problem, budgets, min(chains, key=loss_of), solver, end)


def nested_plan(
    table: CostTable,
    problem: Problem,
    choice: np.ndarray,
    free: Solution,
    constraints: Constraints | None = None,
) -> Plan:
    """The plan of one choice of a chain; its status says what nesting costs beside the free one.

    `problem` has the budget of both.
    """
    loss = problem.loss_of(choice)
    cost = "nothing"
    if loss - free.loss > ROUNDING * loss:
        share = f"{loss / free.loss - 1:.2%}: " if free.loss else ""
        cost = f"{share}{loss:.6g} in place of {free.loss:.6g} nats per token"
    return plan_of(
        table,
        problem.assignment(choice),
        budget_bytes=problem.budget_bytes + problem.rest_bytes,
        solver=f"nested {free.solver}",
        status=(
            "Nested: no layer has fewer bytes than in this frontier's smaller plans. Against the "
            f"{'best' if free.gap == 0 else 'best known'} plan of this budget alone that costs "
            f"{cost}."
        ),
        lower_bound=free.lower_bound,
        constraints=constraints,
    )


def _undominated(problem: Problem) -> Problem:
    """Without the schemes that are no better than another of their row in bytes or in loss.

    What is left loses less with every byte, so a row that gains bytes is promoted.
    """
    size = np.where(problem.legal, problem.bytes, np.inf)
    order = np.lexsort((problem.loss, size), axis=1)
    loss = np.take_along_axis(problem.loss, order, axis=1)
    least_before = np.minimum.accumulate(loss, axis=1)[:, :-1]
    better = np.column_stack([loss[:, 0] < np.inf, loss[:, 1:] < least_before])
    legal = np.empty_like(better)
    np.put_along_axis(legal, order, better, axis=1)
    return _only(problem, legal)


def _only(problem: Problem, legal: np.ndarray) -> Problem:
    """The problem with no schemes but those that are also in `legal` [rows, schemes]."""
    legal = problem.legal & legal
    return replace(
        problem,
        legal=legal,
        loss=np.where(legal, problem.loss, np.inf),
        bytes=np.where(legal, problem.bytes, 0),
    )


def _between(
    problem: Problem, budget_bytes: int, floor: np.ndarray | None, ceiling: np.ndarray | None
) -> Problem:
    """At a budget, with the schemes of no fewer bytes than `floor` and no more than `ceiling`."""
    legal = problem.legal
    if floor is not None:
        legal = legal & (problem.bytes >= problem.at(floor, problem.bytes)[:, None])
    if ceiling is not None:
        legal = legal & (problem.bytes <= problem.at(ceiling, problem.bytes)[:, None])
    return _only(replace(problem, budget_bytes=budget_bytes), legal)


def _downward(problem: Problem, budgets: Sequence[int]) -> Chain:
    """The chain that serves large budgets first, each below the one before."""
    chain: Chain = []
    ceiling = None
    for budget_bytes in reversed(budgets):
        below = _between(problem, budget_bytes, None, ceiling)
        ceiling = lagrangian(below, Hull.of(below)).choice
        chain.append(ceiling)
    return chain[::-1]


def _settled(
    problem: Problem,
    budgets: Sequence[int],
    chain: Chain,
    solver: Callable[..., Solution],
    end: float,
) -> Chain:
    """The chain with each choice solved between its neighbours, until none improves."""
    chain = list(chain)
    waiting = list(range(len(chain)))
    while waiting and (left_s := end - time.monotonic()) > 0:
        at = waiting.pop(0)
        floor = chain[at - 1] if at else None
        ceiling = chain[at + 1] if at + 1 < len(chain) else None
        here = _between(problem, budgets[at], floor, ceiling)
        found = solver(here, Hull.of(here), time_limit_s=left_s / len(chain), start=chain[at])
        if here.loss_of(chain[at]) - found.loss > ROUNDING * found.loss:
            chain[at] = found.choice
            # They have new neighbours.
            beside = [other for other in (at - 1, at + 1) if 0 <= other < len(chain)]
            waiting += [other for other in beside if other not in waiting]
    return chain
