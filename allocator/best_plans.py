"""Several plans of one budget, for a next stage to try: the best, or the best that differ."""

import math
import time
from typing import Literal, TypeAlias

import numpy as np

from bitplan.allocator.apart import Apart, Taken, apart
from bitplan.allocator.constraints import Constraints, leaving_out
from bitplan.allocator.hull import Hull
from bitplan.allocator.interactions import additive_only
from bitplan.allocator.next_best import Next, next_best
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import plan_of, solved_plan
from bitplan.allocator.prices import best_prices, priced_relaxation
from bitplan.allocator.problem import ROUNDING, Problem, Solution
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.solvers import check_time, run_solver
from bitplan.allocator.task import Task
from bitplan.errors import InputError
from bitplan.schema import Budget, CostTable, Plan

Of: TypeAlias = Literal["parameters", "layers"]

GAP = 1e-3
"""Of the best loss: how much better than the plan found one that differs as much may be."""
FIRST_SLACK = 1e-4
"""Of the best loss: how far above the bound the next best is looked for at first."""


def best_plans(
    table: CostTable,
    budget: Budget | float | None,
    count: int,
    *,
    differ_by: float = 0.0,
    of: Of = "parameters",
    tolerance: float | None = None,
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
    time_limit_s: float = 60.0,
) -> list[Plan]:
    """The best plans within a budget, the best first; or the best of those that differ.

    Each is the best plan that differs from every one before it. Fewer come back where there are no
    more. The status of each says what is proven; its gap is against the best plan of all. All leave
    out what the best one does, and nothing else.

    Args:
        table: what every layer loses in every scheme.
        budget: as for `solve`.
        count: number of plans, 1 or more.
        differ_by: the least share in which any two differ, from 0 (in one layer) to 1 (in all).
        of: what that is a share of: the number of parameters, or of layers.
        tolerance: how much more than the best a plan may predict, as a share; None: any amount.
        pins: as for `solve`.
        fuse: as for `solve`.
        constraints: as for `solve`; they hold in every plan.
        time_limit_s: for all; what was not proven by then says so.

    Raises:
        InfeasibleError: nothing fits the budget.
        ConflictError: constraints that cannot hold together.
        InputError: a count, share or tolerance that makes no sense, or a pin that cannot be used.
    """
    _check(count, differ_by, of, tolerance)
    check_time(time_limit_s)
    additive_only(table, "best_plans")
    end = time.monotonic() + time_limit_s
    task = Task.of(table, budget, Constraints.of(constraints, pins=pins, fuse=fuse))
    best = _best(task, time_limit_s / count)
    if task.problem.mixes:
        # Others differ from it in layers, not in mixes of them.
        plan = solved_plan(table, task.problem, best, task.constraints)
        task = Task.of(table, budget, leaving_out(task.constraints, plan))
        best = _best(task, time_limit_s / count)
    problem = task.problem
    plans, choices = [solved_plan(table, problem, best, task.constraints)], [best.choice]
    weight = _weight(problem, of)
    differ = max(1, math.ceil(differ_by * int(weight.sum()) * (1 - ROUNDING)))
    relaxation = _relaxed(problem, end - time.monotonic())
    anywhere = Apart(lower_bound=relaxation.lower_bound, reduced=relaxation.reduced, choice=None)
    most_loss = math.inf if tolerance is None else best.loss * (1 + tolerance) * (1 + ROUNDING)
    slack = max(best.loss - relaxation.lower_bound, FIRST_SLACK * best.loss, np.finfo(float).tiny)
    while len(plans) < count and (left_s := end - time.monotonic()) > 0:
        taken = Taken(choices=tuple(choices), weight=weight, differ=differ)
        around = apart(problem, taken) if differ_by else anywhere
        found = next_best(
            problem,
            around,
            taken,
            slack=slack,
            most_loss=most_loss,
            gap=GAP * best.loss if differ_by else 0.0,
            time_limit_s=left_s / (count - len(plans)),
        )
        if found is None or problem.loss_of(found.choice) > most_loss:
            break
        slack = max(slack, problem.loss_of(found.choice) - relaxation.lower_bound)
        status = _status(len(plans), differ_by, of, found)
        plans.append(_plan(task, found.choice, status, best))
        choices.append(found.choice)
    return plans


def _best(task: Task, time_limit_s: float) -> Solution:
    return run_solver(
        "cp_sat", task.table, task.rules, task.problem, task.hull, time_limit_s=time_limit_s
    )


def _relaxed(problem: Problem, time_limit_s: float) -> Relaxation:
    """A bound on all choices, with prices on the limits where there are any."""
    if not problem.limits:
        return Relaxation.of(problem, Hull.of(problem))
    return priced_relaxation(problem, best_prices(problem, time_limit_s / 4))


def _plan(task: Task, choice: np.ndarray, status: str, best: Solution) -> Plan:
    return plan_of(
        task.table,
        task.problem.assignment(choice),
        budget_bytes=task.problem.budget_bytes + task.problem.rest_bytes,
        solver="best_plans",
        status=status,
        lower_bound=best.lower_bound,
        constraints=task.constraints,
    )


def _weight(problem: Problem, of: Of) -> np.ndarray:
    if of == "parameters":
        return problem.parameters
    return np.array([len(names) for names in problem.layers])


def _status(before: int, differ_by: float, of: Of, found: Next) -> str:
    others = f"the {before} before it" if before > 1 else "the one before it"
    if not found.proven:
        return (
            f"The time limit ended the search: a plan that differs enough from {others} may "
            f"predict a lower KL within this budget, but no less than {found.lower_bound:.6g}. "
            "Raise the time limit to know."
        )
    if differ_by == 0:
        return f"Proven: no plan but {others} predicts a lower KL within this budget."
    return (
        f"Proven: within this budget no plan that differs from {others} in {differ_by:.4g} of all "
        f"{of} predicts a lower KL by more than {GAP:g} of the best plan's."
    )


def _check(count: int, differ_by: float, of: str, tolerance: float | None) -> None:
    if not (isinstance(count, int) and count >= 1):
        raise InputError(f"{count} plans were asked for; it needs a whole number of at least 1.")
    if not 0 <= differ_by <= 1:
        raise InputError(f"Plans are to differ by {differ_by}; it must be a share from 0 to 1.")
    if of not in ("parameters", "layers"):
        raise InputError(f"A share of {of!r} is not known. Choose parameters or layers.")
    if tolerance is not None and not tolerance >= 0:
        raise InputError(f"The tolerance is {tolerance}; it must be a share from 0 up.")
