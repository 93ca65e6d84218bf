"""The best choice that differs enough from choices that are taken already.

Only the core of the relaxation is searched: a scheme whose reduced cost exceeds some slack is in no
choice that loses less than the bound and the slack. What is found below that is the best there is;
else the slack grows.
"""

import itertools
import math
import time
from dataclasses import dataclass

import numpy as np

from bitplan.allocator.apart import Apart, Taken
from bitplan.allocator.problem import ROUNDING, Problem

OBJECTIVE_BITS = 50
"""Losses are scaled so that the worst total has as many bits: CP-SAT computes in integers."""
GROWTH = 4.0
"""By which the slack grows where it was too little to find anything."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Next:
    """The best choice found, a bound on all that differ enough, and whether it is proven."""

    choice: np.ndarray  # [rows]
    lower_bound: float
    proven: bool


def next_best(
    problem: Problem,
    around: Apart,
    taken: Taken,
    *,
    slack: float,
    most_loss: float,
    gap: float,
    time_limit_s: float,
) -> Next | None:
    """The best choice that fits and differs enough; None where none was found.

    Args:
        problem: with the budget.
        around: bound and reduced costs of the choices that differ enough.
        taken: the choices that it must differ from.
        slack: to begin with, above the bound; nats per token, above 0.
        most_loss: nats per token that it may lose; infinite: any.
        gap: nats per token that it may lose more than the best that differs enough.
        time_limit_s: for all; the choice is then the best found.
    """
    end = time.monotonic() + time_limit_s
    start, bound = around.choice, around.lower_bound
    if start is not None:
        loss = problem.loss_of(start)
        if loss - bound <= gap and loss <= most_loss:
            return Next(choice=start, lower_bound=min(bound, loss), proven=True)
        slack = loss - bound
    most_slack = most_loss - bound
    while True:
        # A start lies in a core of its own loss only but for rounding.
        slack = min(slack * (1 + ROUNDING), most_slack)
        keep = around.reduced <= slack
        is_all = bool((keep == problem.legal).all()) or slack == most_slack
        for choice in (*taken.choices, *([] if start is None else [start])):
            keep[np.arange(len(choice)), choice] = True
        left_s = max(0.01, end - time.monotonic())
        found = _search(problem, keep, taken, start=start, gap=gap, time_limit_s=left_s)
        if found is None and (is_all or time.monotonic() >= end):
            return None
        if found is None:
            # At least one more scheme, however far above zero the next reduced cost is.
            more = around.reduced[(around.reduced > slack) & problem.legal]
            slack = max(slack * GROWTH, float(more.min()))
            continue
        loss = problem.loss_of(found.choice)
        if is_all or loss <= bound + slack or not found.proven:
            least = found.lower_bound if is_all else min(found.lower_bound, bound + slack)
            return Next(choice=found.choice, lower_bound=max(least, bound), proven=found.proven)
        # Whatever is better lies in this core.
        slack = loss - bound


def _search(
    problem: Problem,
    keep: np.ndarray,
    taken: Taken,
    *,
    start: np.ndarray | None,
    gap: float,
    time_limit_s: float,
) -> Next | None:
    """The best choice of the kept schemes [rows, schemes]."""
    # Imported here because it takes as long as all the rest of this package.
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    row, scheme = np.nonzero(keep)
    items = [model.new_bool_var("") for _ in row]
    begin = np.searchsorted(row, np.arange(len(keep) + 1))
    for first, last in itertools.pairwise(begin):
        model.add_exactly_one(items[first:last])
    total = cp_model.LinearExpr.weighted_sum
    for amounts, most in problem.resources:
        model.add(total(items, amounts[row, scheme].tolist()) <= most)
    if problem.most_schemes is not None:
        used = [model.new_bool_var("") for _ in range(problem.loss.shape[1])]
        for item, column in zip(items, scheme.tolist(), strict=True):
            model.add_implication(item, used[column])
        model.add(sum(used) <= problem.most_schemes)
    for choice in taken.choices:
        same = np.flatnonzero(scheme == choice[row])
        weights = taken.weight[row[same]].tolist()
        model.add(total([items[index] for index in same], weights) <= taken.most_alike)
    least = np.where(keep, problem.loss, np.inf).min(axis=1)
    above = problem.loss[row, scheme] - least[row]
    unit = _unit(above, row)
    model.minimize(total(items, np.rint(above / unit).astype(np.int64).tolist()))
    hint = taken.choices[-1] if start is None else start
    for item, chosen in zip(items, (scheme == hint[row]).tolist(), strict=True):
        model.add_hint(item, chosen)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.absolute_gap_limit = gap / unit
    solver.parameters.max_time_in_seconds = time_limit_s
    # Else an interrupt would end the search and pass for its result.
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    chosen = np.array([solver.boolean_value(item) for item in items])
    base, rounding = math.fsum(least.tolist()), len(keep) * unit / 2
    return Next(
        choice=scheme[chosen],
        lower_bound=base + solver.best_objective_bound * unit - rounding,
        proven=status == cp_model.OPTIMAL,
    )


def _unit(above: np.ndarray, row: np.ndarray) -> float:
    """The power of two in which the largest total there could be has `OBJECTIVE_BITS` bits."""
    largest = np.zeros(int(row[-1]) + 1)
    np.maximum.at(largest, row, above)
    total = float(largest.sum())
    return 2.0 ** (math.ceil(math.log2(total)) - OBJECTIVE_BITS) if total > 0 else 1.0
