"""What all solvers have in common: one signature, what each can handle, when there is no choice."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from bitplan.allocator.hull import Hull
from bitplan.allocator.problem import Problem, Solution, Status
from bitplan.errors import InputError


class Solve(Protocol):
    """The signature of every solver."""

    def __call__(
        self, problem: Problem, hull: Hull, *, time_limit_s: float, start: np.ndarray | None
    ) -> Solution:
        """Solve a problem.

        Args:
            problem: what to solve.
            hull: of the same rows, at whatever budget: make it once for many budgets.
            time_limit_s: for all of it; the answer is then the best choice found, with its gap.
            start: a choice [rows] to begin with, used where it fits.

        Raises:
            InfeasibleError: nothing fits the budget.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A solver, callable as in `Solve`, and what it can handle.

    Whatever it does, its answer is never worse than a `start` that fits, and a budget that binds
    nothing is answered without it.
    """

    name: str
    run: Solve
    exact: bool  # given the time, proves the optimum, but for what its docstring says
    interactions: bool  # honours `Problem.interactions`
    limits: bool  # keeps to all limits of a problem, most schemes too, not to its bytes alone

    def __call__(
        self,
        problem: Problem,
        hull: Hull,
        *,
        time_limit_s: float = 10.0,
        start: np.ndarray | None = None,
    ) -> Solution:
        """Solve, as described in `Solve`; `InputError` for a problem that it cannot handle."""
        self.check(problem)
        hull.check(problem)
        is_plain = problem.interactions is None and not problem.is_limited
        if is_plain and problem.budget_bytes >= hull.largest_bytes:
            choice = hull.last()
            bound = problem.loss_of(choice)
            return Solution.of(problem, choice, bound, Status.UNCONSTRAINED, self.name)
        fits = start is not None and problem.fits(start)
        found = self.run(problem, hull, time_limit_s=time_limit_s, start=start if fits else None)
        if start is not None and fits and problem.loss_of(start) < found.loss:
            return Solution.of(problem, start, found.lower_bound, found.status, self.name)
        return replace(found, solver=self.name)

    def check(self, problem: Problem) -> None:
        """Raise `InputError` for a problem that this solver cannot handle."""
        if problem.is_limited and not self.limits:
            able = "quadratic" if problem.interactions is not None else "cp_sat"
            raise InputError(
                f"The solver {self.name} keeps to the bytes alone, but this plan must also keep to "
                f"{', '.join(problem.limit_names)}. Solve with {able}."
            )
        if problem.interactions is not None and not self.interactions:
            able = '"quadratic", "descent" or "evolutionary"'
            raise InputError(
                f"The solver {self.name} takes no interactions between layers, and this problem "
                f"has some. Solve it with {'quadratic' if problem.is_limited else able}, or leave "
                "them out."
            )


def solver(
    name: str, *, exact: bool = False, interactions: bool = False, limits: bool = False
) -> Callable[[Solve], Solver]:
    """Make a solver of a function: a decorator that says what it can handle."""

    def wrap(run: Solve) -> Solver:
        return Solver(name=name, run=run, exact=exact, interactions=interactions, limits=limits)

    return wrap
