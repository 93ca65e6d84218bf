"""The rule of thumb: more bits for the first and the last block, the others uniform in the rest."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bitplan.allocator.constraints import Constraints
from bitplan.allocator.plan import plan_of
from bitplan.allocator.problem import Problem
from bitplan.allocator.uniform import uniform_choices
from bitplan.schema import Budget, CostTable, Plan

STATUS = (
    "The first and the last block in one scheme, all else uniform in a smaller one: a rule of "
    "thumb that asks no measurement, but which two schemes."
)


def ends_high(
    table: CostTable, budget: Budget | float, *, constraints: Constraints | None = None
) -> Plan | None:
    """Of all pairs of schemes that fit a budget the one that predicts the lowest KL.

    The first and the last block take the larger scheme of the pair, all that is between them or in
    no block the smaller one, and layers that may not take theirs what `uniform` gives them. None
    where no pair fits, or there are no blocks between the first and the last.

    Args:
        table: what every layer loses in every scheme.
        budget: for the whole model.
        constraints: what else the plan must keep to.

    Raises:
        InputError: a pin or another constraint that cannot be used.
    """
    total, given = Budget.of(budget).total_bytes, constraints or Constraints()
    if given.left_out is None:
        given = replace(given, left_out=frozenset())
    problem = Problem.of(table, total, constraints=given)
    ends = _ends(table, problem)
    fitting = [choice for choice in _pairs(problem, ends) if problem.fits(choice)]
    if not fitting:
        return None
    return plan_of(
        table,
        problem.assignment(min(fitting, key=problem.loss_of)),
        budget_bytes=total,
        solver="ends_high",
        status=STATUS,
        constraints=given,
    )


def _ends(table: CostTable, problem: Problem) -> np.ndarray:
    """Whether a row [rows] is of the first or the last block; none is where nothing is between."""
    block = {row.layer.name: row.layer.block for row in table.rows}
    numbers = sorted({number for number in block.values() if number is not None})
    if len(numbers) < 3:
        return np.zeros(len(problem.layers), bool)
    ends = (numbers[0], numbers[-1])
    return np.array([all(block[name] in ends for name in names) for names in problem.layers])


def _pairs(problem: Problem, ends: np.ndarray) -> Iterator[np.ndarray]:
    """The choices [rows] whose ends are larger than in the uniform choice of all else."""
    every = list(uniform_choices(problem).values()) if ends.any() else []
    sizes = [int(problem.at(choice, problem.bytes)[ends].sum()) for choice in every]
    for low, low_size in zip(every, sizes, strict=True):
        for high, high_size in zip(every, sizes, strict=True):
            if high_size > low_size:
                yield np.where(ends, high, low)
