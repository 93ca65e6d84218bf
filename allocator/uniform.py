"""Uniform plans: one scheme for every layer that may take it. The baseline of every budget."""

from dataclasses import replace

import numpy as np

from bitplan.allocator.bound import lower_bound
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.hull import Hull
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import plan_of
from bitplan.allocator.problem import Problem, Status
from bitplan.schema import Budget, CostTable, Plan


def uniform(
    table: CostTable,
    budget: Budget | float | None = None,
    *,
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
) -> list[Plan]:
    """The uniform plans that fit a budget (None: all of them), largest first.

    A layer that may not take the scheme takes, of its own, the smallest that is not smaller than
    the scheme would be there, else its largest. Plans that come out alike are given once, and those
    that do not keep to the constraints not at all. `solver` names the scheme: "uniform int4g64".
    Nothing is left out that may stay, unless the constraints say what is.

    Raises:
        InputError: a pin that cannot be used.
    """
    total = None if budget is None else Budget.of(budget).total_bytes
    given = Constraints.of(constraints, pins=pins, fuse=fuse)
    if given.left_out is None:
        given = replace(given, left_out=frozenset())
    problem = Problem.of(table, total or 0, constraints=given)
    hull = Hull.of(problem)
    plans: dict[bytes, Plan] = {}
    for column, choice in uniform_choices(problem).items():
        size = problem.rest_bytes + problem.bytes_of(choice)
        if choice.tobytes() in plans or (total is not None and size > total):
            continue
        if problem.broken(choice):
            continue
        budget_bytes = max(size, 1) if total is None else total
        within = replace(problem, budget_bytes=budget_bytes - problem.rest_bytes)
        plans[choice.tobytes()] = plan_of(
            table,
            problem.assignment(choice),
            budget_bytes=budget_bytes,
            solver=f"uniform {problem.schemes[column]}",
            status=Status.UNIFORM,
            lower_bound=lower_bound(within, hull),
            constraints=given,
        )
    return sorted(plans.values(), key=lambda plan: (-plan.bytes, plan.predicted_kl, plan.solver))


def uniform_choices(problem: Problem) -> dict[int, np.ndarray]:
    """Scheme index -> the choice [rows] that uses it wherever it may.

    A scheme that only pinned rows have is no candidate: it decides nothing.
    """
    free = problem.legal.sum(axis=1) > 1
    deciding = problem.legal[free] if free.any() else problem.legal
    columns = np.flatnonzero(deciding.any(axis=0))
    if problem.mixes:
        columns = columns[columns < len(problem.schemes)]
    return {column: _uniform_choice(problem, column) for column in columns.tolist()}


def _uniform_choice(problem: Problem, column: int) -> np.ndarray:
    choice = np.full(len(problem.legal), column)
    has = problem.legal[:, column]
    other = np.flatnonzero(~has)
    if other.size:
        bytes_each = problem.bytes[has, column].sum() / problem.parameters[has].sum()
        choice[other] = _nearest(problem, other, bytes_each * problem.parameters[other])
    return choice


def _nearest(problem: Problem, rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Of each given row the legal scheme nearest to `target` bytes, not smaller if there is one."""
    size, legal, loss = problem.bytes[rows], problem.legal[rows], problem.loss[rows]
    above = legal & (size >= target[:, None])
    smallest_above = np.where(above, size, np.iinfo(np.int64).max).min(axis=1)
    largest = np.where(legal, size, -1).max(axis=1)
    wanted = np.where(above.any(axis=1), smallest_above, largest)
    return np.argmin(np.where(legal & (size == wanted[:, None]), loss, np.inf), axis=1)
