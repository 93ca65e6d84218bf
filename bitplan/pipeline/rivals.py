"""Plans that one simple method makes alone, and that take no pass through the model to have.

A search may begin with them, and the best of them is judged beside its result on held-out tokens.
"""

from collections.abc import Sequence

from bitplan.allocator import (
    Constraints,
    Found,
    ends_high,
    leaving_out,
    plan_of,
    solve,
    uniform,
)
from bitplan.calibration import TokenSets
from bitplan.pipeline.rows import rows_in
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress
from bitplan.schema import Budget, CostTable, Plan, Row
from bitplan.sensitivity import LADDER, LAYER_ESTIMATORS, Meter


def rivals(
    workspace: Workspace,
    table: CostTable,
    solved: Plan,
    meter: Meter,
    tokens: TokenSets,
    settings: Settings,
    progress: Progress,
) -> list[Plan]:
    """The rule of thumb, and the plans of estimators that read nothing but what is there already.

    That is the weight error, from the weights as they are rendered, and where the quantizer reads
    the covariances of `gradient_covariance`, that. No plan is the solved or a uniform one, and no
    two are the same. Their bytes and predicted KL are the table's. `solver` tells them apart.
    """
    budget = Budget(bytes=solved.budget_bytes)
    given = leaving_out(settings.all_constraints, solved)
    found = [ends_high(table, budget, constraints=given)]
    for name in free_estimators(meter):
        other = workspace.meter(
            tokens,
            estimator=name,
            quantizer=settings.renders_by,
            engine=settings.engine,
            workers=settings.workers,
            store_gb=settings.store_gb,
        )
        rows, _ = rows_in(workspace, other, settings, progress)
        fixed = _as_solved(table, solved)
        free = [row for row in rows if row.layer.name not in fixed]
        theirs = table.model_copy(update={"rows": (*free, *fixed.values())})
        plan = solve(theirs, budget, constraints=given)
        found.append(_recosted(plan, table, solved, name, given))
    known = {_key(plan) for plan in (solved, *uniform(table, budget, constraints=given))}
    unique = {_key(plan): plan for plan in found if plan is not None}
    return [plan for key, plan in unique.items() if key not in known]


def free_estimators(meter: Meter) -> list[str]:
    """Those of `LADDER` that read only what was gathered for the meter; its own is not among them.

    They judge weights that are rendered already, so nothing goes through the model for them.
    """
    candidates = {name: LAYER_ESTIMATORS[name] for name in LADDER}
    return [
        name
        for name, estimator in candidates.items()
        if estimator is not meter.estimator
        and set(estimator.moments) <= set(meter.needs.get(estimator.labels, ()))
    ]


def best_rival(several: Sequence[Plan], found: Found | None) -> Plan | None:
    """Of the rivals the one that the search measured to be best, else of least predicted KL."""
    for plan in found.ranked if found else ():
        if plan in several:
            return plan
    return min(several, key=lambda plan: plan.predicted_kl, default=None)


def _as_solved(table: CostTable, solved: Plan) -> dict[str, Row]:
    """Rows of the cache and of what is left out, by layer name, each in the scheme that it has.

    What is no weight has no weight error, and what is left out is no error of a weight.
    """
    rows = {}
    for row in table.rows:
        scheme = solved.schemes[row.layer.name]
        if row.layer.is_cache or scheme.is_none:
            [cost] = (cost for cost in row.costs if cost.scheme == scheme)
            only = cost.model_copy(update={"inseparable": ()})
            rows[row.layer.name] = row.model_copy(update={"costs": (only,)})
    return rows


def _recosted(
    plan: Plan, table: CostTable, solved: Plan, estimator: str, constraints: Constraints
) -> Plan:
    return plan_of(
        table,
        plan.schemes,
        budget_bytes=solved.budget_bytes,
        solver=f"by {estimator}",
        status=f"The best plan by {estimator}, which reads nothing that was not there already.",
        lower_bound=solved.lower_bound,
        constraints=constraints,
    )


def _key(plan: Plan) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(scheme)) for name, scheme in plan.schemes.items()))
