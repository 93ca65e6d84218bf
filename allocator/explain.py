"""Why a plan is as it is: what bytes are worth to it, what comes next, and each layer's why."""

import time

from bitplan.allocator.chosen import chosen
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.explanation import Explanation
from bitplan.allocator.hull import Hull
from bitplan.allocator.margin import GB, best_at, increment, larger, smaller
from bitplan.allocator.pins import Pins
from bitplan.allocator.problem import Problem
from bitplan.allocator.reasons import Case, reasons
from bitplan.allocator.relaxation import Relaxation
from bitplan.allocator.solvers import check_time
from bitplan.allocator.stability import stability
from bitplan.allocator.wildcards import matching
from bitplan.schema import CostTable, Plan

STEP_BYTES = GB // 10
STEP_SHARE = 100
"""The other step is the budget over this."""
NEXT = 5
"""How many promotions and demotions are given."""


def explain(
    table: CostTable,
    plan: Plan,
    *,
    layers: str = "*",
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
    exact: bool = False,
    samples: int = 200,
    seed: int = 0,
    time_limit_s: float = 0.5,
) -> Explanation:
    """What a plan's table says of it: what bytes are worth, what comes next, and each layer's why.

    It is beside plans that leave out what it does, and nothing else.

    Args:
        table: that the plan was solved from; its losses count.
        plan: of any solver, also refined or made by hand.
        layers: name or wildcard of the layers whose reasons are given.
        pins: those that the plan was solved with.
        fuse: whether it was solved with fused layers.
        constraints: all that it was solved with. Where none of these three is given, those that the
            plan records. Limits beside the bytes are left out, and `left_out` names them.
        exact: solve each layer's runner-up exactly: tens of times slower. Else it is near-optimal,
            with a bound.
        samples: of the table, for how often a layer keeps its scheme; 0: none.
        seed: of these samples.
        time_limit_s: for the exact searches; what they could not prove has a bound still.

    Raises:
        PlanError: the plan is of another model, or not one that the constraints allow.
        InputError: no layer has that name, or a pin that cannot be used.
    """
    check_time(time_limit_s)
    names = matching("wildcard", layers, [row.layer.name for row in table.rows])
    problem, choice = chosen(table, plan, pins=pins, fuse=fuse, constraints=constraints)
    left_out, problem = problem.limit_names, problem.by_bytes_alone()
    hull = Hull.of(problem)
    end = time.monotonic() + time_limit_s
    steps = _steps(problem, hull)
    budgets = [problem.budget_bytes + more for more in (0, *steps)]
    best, *others = best_at(problem, hull, budgets, choice, time_limit_s)
    kept = {}
    if samples and any(cost.standard_error for row in table.rows for cost in row.costs):
        given = {"pins": pins, "fuse": fuse, "constraints": constraints}
        kept = stability(table, plan, samples=samples, seed=seed, **given).kept
    case = Case(
        problem=problem,
        hull=hull,
        relaxation=Relaxation.of(problem, hull),
        choice=choice,
        best=best,
        larger=larger(problem, choice),
        smaller=smaller(problem, choice),
        kept=kept,
    )
    ups, downs = filter(None, case.larger), filter(None, case.smaller)
    exact_s = max(0.0, end - time.monotonic()) if exact else None
    return Explanation(
        model=plan.provenance.model,
        left_out=tuple(left_out),
        budget_bytes=problem.budget_bytes + problem.rest_bytes,
        bytes=problem.bytes_of(choice) + problem.rest_bytes,
        predicted_kl=case.loss,
        best_kl=best.loss,
        lower_bound=best.lower_bound,
        nats_per_gb=case.nats_per_gb,
        increments=tuple(
            increment(problem, choice, more, best, there)
            for more, there in zip(steps, others, strict=True)
        ),
        promotions=tuple(sorted(ups, key=lambda move: -move.nats_per_gb)[:NEXT]),
        demotions=tuple(sorted(downs, key=lambda move: move.nats_per_gb)[:NEXT]),
        reasons=reasons(case, _rows(problem, names), exact_s=exact_s),
    )


def _rows(problem: Problem, names: list[str]) -> list[int]:
    """The rows that hold the layers, each once."""
    row = {name: row for row, names in enumerate(problem.layers) for name in names}
    return list(dict.fromkeys(row[name] for name in names))


def _steps(problem: Problem, hull: Hull) -> list[int]:
    """By how many bytes the other budgets differ, largest first; none where nothing would fit."""
    total = problem.budget_bytes + problem.rest_bytes
    steps = {sign * step for step in (STEP_BYTES, total // STEP_SHARE) for sign in (1, -1)} - {0}
    possible = [step for step in steps if problem.budget_bytes + step >= hull.first_bytes]
    return sorted(possible, reverse=True)
