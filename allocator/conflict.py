"""Why nothing holds all constraints: the fewest that cannot together, and what nearly could."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.hull import Hull
from bitplan.allocator.limit import Limit, Unit
from bitplan.allocator.problem import Problem
from bitplan.allocator.resources import bytes_of_all
from bitplan.allocator.rules import Cap, Rule, each_within, smallest_conflict
from bitplan.errors import ConflictError, InfeasibleError, InputError, TimeLimitError
from bitplan.schema import CostTable

TIME_LIMIT_S = 30.0
"""Seconds for an explanation; what is not decided by then is left in the conflict."""


def least_amount(problem: Problem, limit: Limit, time_limit_s: float = TIME_LIMIT_S) -> int:
    """The fewest steps of a limit that any choice within the others needs, to the step.

    Raises:
        InfeasibleError: nothing fits the bytes.
        ConflictError: nothing keeps to the other limits.
        TimeLimitError: the time was up before the least was proven.
    """
    others = tuple(other for other in problem.limits if other is not limit)
    loss = np.where(problem.legal, limit.amounts.astype(float), np.inf)
    alone = replace(problem.alone(), loss=loss, limits=others)
    solution = cp_sat(alone, Hull.of(alone), time_limit_s=time_limit_s)
    if solution.gap > 0:
        raise TimeLimitError(
            f"The time was up before the least of {limit.name!r} was proven. Raise the limit."
        )
    return limit.of(solution.choice)


def least_bytes(problem: Problem, time_limit_s: float = TIME_LIMIT_S) -> int:
    """The fewest bytes that any choice within the other limits needs. Raises as `least_amount`."""
    unlimited = replace(problem, budget_bytes=int(problem.bytes.max(axis=1).sum()))
    if not problem.is_limited:
        return Hull.of(problem).first_bytes
    limit = Limit(name="bytes", amounts=problem.bytes, most=0, unit=Unit(noun="bytes"))
    return least_amount(unlimited, limit, time_limit_s)


def check_feasible(table: CostTable, budget_bytes: int, rules: Sequence[Rule]) -> None:
    """Raise `explained` where no plan of a table keeps to a budget and rules."""
    if not _Oracle(table).can_hold([budget_rule(table, budget_bytes), *rules]):
        raise explained(table, budget_bytes, rules)


def problem_under(table: CostTable, budget_bytes: int, rules: Sequence[Rule]) -> Problem:
    """`Problem.under`, and a conflict is explained."""
    try:
        return Problem.under(table, budget_bytes, rules)
    except ConflictError as error:
        raise explained(table, budget_bytes, rules) from error


@contextmanager
def explaining(table: CostTable, problem: Problem, rules: Sequence[Rule]) -> Iterator[None]:
    """Turn what solving a problem raises for lack of any plan into `explained`."""
    try:
        yield
    except (InfeasibleError, ConflictError) as error:
        if not rules:
            raise
        raise explained(table, problem.budget_bytes + problem.rest_bytes, rules) from error


def explained(table: CostTable, budget_bytes: int, rules: Sequence[Rule]) -> InputError:
    """The error to raise where no plan of a table keeps to a budget and rules.

    `InfeasibleError`, with the smallest budget that could, where without the budget all the rules
    could hold; else `ConflictError`.
    """
    oracle = _Oracle(table)
    # The budget is the first to be left out: it stays only where all the rules can hold without.
    budget = budget_rule(table, budget_bytes)
    every = [budget, *rules]
    conflict = smallest_conflict(every, oracle.can_hold)
    limits = [rule for rule in conflict if rule is not budget]
    # Where there are several conflicts, no change to one limit is enough for all of them.
    some = every, rules, conflict
    nearest = [text for rule in limits for text in _first_of(oracle.nearest(r, rule) for r in some)]
    names = [rule.name for rule in limits]
    if budget in conflict:
        smallest = least_bytes(oracle.problem(rules)) + table.rest_bytes
        return InfeasibleError(budget_bytes, smallest, conflict=names, nearest=nearest)
    instead = f" Nearest that could: {', or '.join(nearest)}." if nearest else ""
    try:
        oracle.problem(conflict)
    except ConflictError as error:  # it names the layer
        return ConflictError(f"{error}{instead}", conflict=names, nearest=nearest)
    which = names[0] if len(names) == 1 else f"{' and '.join(names)} together"
    return ConflictError(
        f"No plan keeps to {which}.{instead} Loosen one, or measure with other schemes.",
        conflict=names,
        nearest=nearest,
    )


def budget_rule(table: CostTable, budget_bytes: int) -> Rule:
    """A budget as a rule like the others."""
    unit = Unit(noun="bytes", rest=table.rest_bytes)
    cap = Cap(amounts=bytes_of_all(table), most=budget_bytes - table.rest_bytes, unit=unit)
    return Rule(name=f"the budget of {budget_bytes:,} bytes", cap=cap)


def largest_bytes(table: CostTable) -> int:
    """Bytes of the whole model at its largest: a budget that binds nothing."""
    sizes = (max((cost.bytes for cost in row.costs), default=0) for row in table.rows)
    return table.rest_bytes + sum(sizes)


class _Oracle:
    """Says whether rules can hold together on a table, for a while."""

    def __init__(self, table: CostTable) -> None:
        self.table = table
        self.end = time.monotonic() + TIME_LIMIT_S

    def problem(self, rules: Sequence[Rule]) -> Problem:
        """The problem of rules alone, without a budget."""
        return Problem.under(self.table, largest_bytes(self.table), rules).alone()

    def can_hold(self, rules: Sequence[Rule]) -> bool:
        """Whether some plan keeps to all rules; True as well where the time is up."""
        try:
            problem = self.problem(rules)
        except ConflictError:
            return False
        for limit in problem.limits:
            amounts = np.where(problem.legal, limit.amounts, np.iinfo(np.int64).max)
            if amounts.min(axis=1).sum() > limit.most:
                return False
        if problem.most_schemes is None and len(problem.limits) <= 1:
            return True
        return self._is_feasible(problem)

    def _is_feasible(self, problem: Problem) -> bool:
        left_s = self.end - time.monotonic()
        if left_s <= 0:
            return True
        try:
            if not problem.limits:
                cp_sat(problem, Hull.of(problem), time_limit_s=left_s)
                return True
            first = problem.limits[0]
            return least_amount(problem, first, left_s) <= first.most
        except TimeLimitError:
            return True
        except (InfeasibleError, ConflictError):
            return False

    def nearest(self, rules: Sequence[Rule], rule: Rule) -> Iterator[str]:
        """What one of the rules would have to allow, if the others hold; nothing if they cannot."""
        others = [other for other in rules if other is not rule]
        if time.monotonic() > self.end or not self.can_hold(others):
            return
        if rule.cap is not None:
            problem = self.problem(rules)
            limit = next(one for one in problem.limits if one.name == rule.name)
            yield rule.cap.unit.show(least_amount(problem, limit))
        elif rule.each is not None:
            steps = sorted({step for one in rule.each.amounts.values() for step in one.values()})
            cap = rule.each
            least = _first(
                steps,
                lambda most: self.can_hold(
                    [*others, each_within(rule.name, replace(cap, most=most))]
                ),
            )
            yield cap.unit.show(least)
        elif rule.most_schemes is not None:
            numbers = list(range(rule.most_schemes, len(self.problem(others).schemes) + 1))
            least = _first(
                numbers, lambda most: self.can_hold([*others, replace(rule, most_schemes=most)])
            )
            yield f"at most {least} schemes"


def _first_of(several: Iterable[Iterable[str]]) -> list[str]:
    """What the first has that has anything."""
    return next(filter(None, map(list, several)), [])


def _first(values: Sequence[int], is_enough: Callable[[int], bool]) -> int:
    """The first of rising values that is enough; the last is."""
    return values[min(bisect_left(values, True, key=is_enough), len(values) - 1)]
