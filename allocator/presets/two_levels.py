"""Two schemes for the whole model, and which layers get the lower one: sorts, not programs."""

from collections.abc import Sequence

import numpy as np

from bitplan.allocator.bound import lower_bound
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.allocator.task import Task
from bitplan.allocator.uniform import uniform_choices

Choices = tuple[np.ndarray, np.ndarray]


def around_the_budget(task: Task) -> Choices:
    """The choices [rows] with the lower and the higher of two schemes wherever they may be.

    The published sorts are told which two. Here they are those that leave a share between none and
    all: of the uniform choices the largest that fits, and the smallest that does not. Where none
    fits, the lower one is the smallest scheme of each row, and where all do, both are the largest.
    Of equal sizes the one that loses less.
    """
    problem = task.problem
    every = sorted(
        uniform_choices(problem).values(),
        key=lambda choice: (problem.bytes_of(choice), -problem.loss_of(choice)),
    )
    fitting = [choice for choice in every if problem.fits(choice)]
    low = fitting[-1] if fitting else task.hull.first
    larger = [one for one in every if problem.bytes_of(one) > problem.bytes_of(low)]
    high = min(larger, key=lambda one: (problem.bytes_of(one), problem.loss_of(one)), default=low)
    return low, high


def fewest_lowered(
    task: Task, choices: Choices, order: Sequence[np.ndarray], name: str
) -> Solution:
    """The solution with the first units of an order at the lower level, as few as the budget needs.

    Args:
        task: whose budget counts.
        choices: lower and higher [rows].
        order: of units, rows each, those that are lowered first in front.
        name: of the preset.
    """
    low, high = choices
    choice = high.copy()
    for unit in order:
        if task.problem.fits(choice):
            break
        choice[unit] = low[unit]
    bound = lower_bound(task.problem, task.hull)
    return Solution.of(task.problem, choice, bound, Status.WITHIN_GAP, name)


def each_row(problem: Problem, score: np.ndarray) -> list[np.ndarray]:
    """Every row [1] as a unit, of the lowest score [rows] first, equal ones as they come."""
    return [np.array([row]) for row in np.argsort(score, kind="stable").tolist()]
