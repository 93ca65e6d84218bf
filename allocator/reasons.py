"""Why each layer has its scheme."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bitplan.allocator.branch import branch
from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.explanation import Move, Reason, RunnerUp
from bitplan.allocator.hull import Hull
from bitplan.allocator.margin import GB
from bitplan.allocator.problem import ROUNDING, Problem, Solution
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.runner_up import second
from bitplan.allocator.words import why

MOST_TRIED = 3
"""Of each row so many other schemes are tried, unless runners-up are solved exactly."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A plan's choice within its problem. `kept` is the share of samples by layer, if known."""

    problem: Problem  # with the plan's budget
    hull: Hull
    relaxation: Relaxation
    choice: np.ndarray  # [rows]
    best: Solution  # the best known at this budget
    larger: Sequence[Move | None]  # [rows], as those of `margin`
    smaller: Sequence[Move | None]  # [rows]
    kept: Mapping[str, float]

    @property
    def loss(self) -> float:
        """Of the plan, nats per token."""
        return self.problem.loss_of(self.choice)

    @property
    def nats_per_gb(self) -> float:
        """What 10^9 bytes would save at the margin, nats per token."""
        return self.relaxation.price * GB


def reasons(case: Case, rows: Sequence[int], *, exact_s: float | None) -> tuple[Reason, ...]:
    """The reasons of some rows.

    Args:
        case: the plan.
        rows: that are asked for.
        exact_s: seconds for solving runners-up exactly; None: within a bound, but quickly.
    """
    end = time.monotonic() + (exact_s or 0.0)
    found = []
    for done, row in enumerate(rows):
        if exact_s is None:
            runner_up = _runner_up(case, row, branch, MOST_TRIED)
        else:
            share_s = max(0.01, end - time.monotonic()) / (len(rows) - done)
            runner_up = _runner_up(case, row, partial(_exact, time_limit_s=share_s), None)
        found.append(_reason(case, row, runner_up))
    return tuple(found)


def _reason(case: Case, row: int, runner_up: RunnerUp | None) -> Reason:
    problem, names, scheme = case.problem, case.problem.layers[row], int(case.choice[row])
    return Reason(
        layers=names,
        scheme=problem.schemes[scheme],
        bytes=int(problem.bytes[row, scheme]),
        loss=float(problem.loss[row, scheme]),
        larger=case.larger[row],
        smaller=case.smaller[row],
        runner_up=runner_up,
        kept=case.kept.get(names[0]),
        why=why(
            price=case.nats_per_gb,
            spare=problem.budget_bytes - problem.bytes_of(case.choice),
            left_out=problem.schemes[scheme].is_none,
            only=int(problem.legal[row].sum()) == 1,
            larger=case.larger[row],
            smaller=case.smaller[row],
            runner_up=runner_up,
            predicted_kl=case.loss,
            is_best=case.loss - case.best.loss <= ROUNDING * case.loss,
        ),
    )


def _runner_up(
    case: Case, row: int, solver: Callable[..., Solution], most: int | None
) -> RunnerUp | None:
    problem, predicted_kl = case.problem, case.loss
    found = second(problem, case.hull, case.relaxation, case.choice, row, solver, most)
    if found is None:
        return None
    extra = found.solution.loss - predicted_kl
    if abs(extra) <= ROUNDING * predicted_kl:
        extra = 0.0
    least = max(found.lower_bound, case.best.lower_bound) - predicted_kl
    return RunnerUp(
        scheme=problem.schemes[found.scheme],
        bytes=int(problem.bytes[row, found.scheme]),
        loss=float(problem.loss[row, found.scheme]),
        predicted_kl=found.solution.loss,
        extra=extra,
        least_extra=min(least, extra),
    )


def _exact(
    problem: Problem, hull: Hull, *, start: np.ndarray | None, time_limit_s: float
) -> Solution:
    quick = branch(problem, hull, start=start)
    return cp_sat(problem, hull, start=quick.choice, time_limit_s=time_limit_s)
