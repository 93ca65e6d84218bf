"""Why each layer has its scheme."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bitplan.allocator.cp_sat import cp_sat
from bitplan.allocator.explanation import Reason, RunnerUp
from bitplan.allocator.hull import Hull
from bitplan.allocator.lagrangian import lagrangian
from bitplan.allocator.margin import GB, larger, smaller
from bitplan.allocator.problem import ROUNDING, Problem, Solution
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.runner_up import second
from bitplan.allocator.words import why


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A plan's choice within its problem. `kept` is the share of samples by layer, if known."""

    problem: Problem  # with the plan's budget
    hull: Hull
    relaxation: Relaxation
    choice: np.ndarray  # [rows]
    best: Solution  # the best known at this budget
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
    ups, downs = larger(case.problem, case.choice), smaller(case.problem, case.choice)
    predicted_kl = case.loss
    spare = case.problem.budget_bytes - case.problem.bytes_of(case.choice)
    end = time.monotonic() + (exact_s or 0.0)
    found = []
    for done, row in enumerate(rows):
        share_s = max(0.01, end - time.monotonic()) / (len(rows) - done)
        solver = lagrangian if exact_s is None else partial(cp_sat, time_limit_s=share_s)
        runner_up = _runner_up(case, row, predicted_kl, solver)
        names, scheme = case.problem.layers[row], int(case.choice[row])
        found.append(
            Reason(
                layers=names,
                scheme=case.problem.schemes[scheme],
                bytes=int(case.problem.bytes[row, scheme]),
                loss=float(case.problem.loss[row, scheme]),
                larger=ups[row],
                smaller=downs[row],
                runner_up=runner_up,
                kept=case.kept.get(names[0]),
                why=why(
                    price=case.nats_per_gb,
                    spare=spare,
                    only=int(case.problem.legal[row].sum()) == 1,
                    larger=ups[row],
                    smaller=downs[row],
                    runner_up=runner_up,
                    predicted_kl=predicted_kl,
                    is_best=predicted_kl - case.best.loss <= ROUNDING * predicted_kl,
                ),
            )
        )
    return tuple(found)


def _runner_up(
    case: Case, row: int, predicted_kl: float, solver: Callable[..., Solution]
) -> RunnerUp | None:
    problem = case.problem
    found = second(problem, case.hull, case.relaxation, case.choice, row, solver)
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
