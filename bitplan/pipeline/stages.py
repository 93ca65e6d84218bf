"""The stages from a model to its table and its plan: measure, allocate."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from bitplan.allocator import (
    Problem,
    check_budget,
    check_plan,
    given_budget,
    largest_bytes,
    leaving_out,
    plan_of,
    solve,
)
from bitplan.calibration import TokenSets
from bitplan.compress import NONE
from bitplan.footprint import scheme_bytes
from bitplan.models import Source
from bitplan.pipeline.caches import (
    kept_caches,
    legal_caches,
    measured_caches,
    warn_of_no_cache,
)
from bitplan.pipeline.estimator import settle_estimator
from bitplan.pipeline.provenance import provenance_of
from bitplan.pipeline.rows import rows_in
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.sublayers import (
    costs_of_none,
    measured_sublayers,
    sublayers_of,
    with_none,
)
from bitplan.pipeline.time_limit import choose_counts
from bitplan.pipeline.transform import transformed
from bitplan.pipeline.verify import verified
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress, quiet
from bitplan.schema import Budget, Cost, CostTable, Layer, Plan, Row, Scheme
from bitplan.sensitivity import Meter, warn_of_unreached


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A plan, the table that it was solved from, and the model, its weights as they were.

    But for the transform, which is folded into them; of a module that was lent, into a copy.
    """

    plan: Plan
    table: CostTable
    model: nn.Module


def measure(model: Source, *, progress: Progress = quiet, **settings: Any) -> CostTable:
    """Measure what every layer would lose in every scheme.

    Args:
        model: a module, a local folder, a .gguf file or a hub id.
        progress: told how far each stage is.
        settings: see `Settings`.

    Raises:
        InputError: a model, text or setting that cannot be used.
    """
    chosen = Settings.of(settings)
    workspace = _open(model, chosen, progress)
    return measure_in(*transformed(workspace, chosen, progress), progress)[0]


def allocate(
    model: Source,
    budget_gb: float | Budget | None = None,
    *,
    progress: Progress = quiet,
    **settings: Any,
) -> Plan:
    """Measure a model, fit it into a budget, and check the answer on the model itself.

    Of the solved plan, its refinement and the uniform plans that fit, the one with the lowest KL
    on held-out tokens is returned; the plan's `evidence` holds all that was measured.

    Args:
        model: a module, a local folder, a .gguf file or a hub id. A module is lent: its weights are
            swapped while plans are measured, and put back.
        budget_gb: for the whole model, in gigabytes of 10^9 bytes, or a `Budget`; None: what the
            limits among the constraints allow.
        progress: told how far each stage is.
        settings: see `Settings`.

    Raises:
        InfeasibleError: nothing fits; found before anything is measured.
        ConflictError: constraints that cannot hold together; likewise.
        InputError: a model, text or setting that cannot be used.
    """
    return run(model, budget_gb, progress=progress, **settings).plan


def run(
    model: Source,
    budget_gb: float | Budget | None = None,
    *,
    progress: Progress = quiet,
    **settings: Any,
) -> Outcome:
    """As `allocate`, and gives the table and the model as well."""
    chosen = Settings.of(settings)
    given = chosen.all_constraints
    budget = given_budget(budget_gb, given)
    workspace = _open(model, chosen, progress)
    caches = legal_caches(workspace, chosen)
    legal = workspace.legal(chosen.schemes) | caches
    kept = workspace.kept() | kept_caches(workspace, caches)
    sizes = _sizes(workspace, legal, chosen)
    budget = budget or Budget(bytes=largest_bytes(sizes))
    check_budget(sizes, budget, constraints=given.before_measuring)
    for plan in chosen.starts:
        under = leaving_out(given.before_measuring, plan)
        check_plan(sizes, Problem.of(sizes, budget.total_bytes, constraints=under), plan)
    chosen = settle_estimator(workspace, chosen)
    may_keep = given.fixes_nothing and all(
        kept[layer.name] in menu for layer, menu in legal.items()
    )
    unchanged = replace(chosen, transform=NONE)
    whole = _sizes(workspace, {layer: (kept[layer.name],) for layer in legal}, unchanged)
    if may_keep and budget.total_bytes >= largest_bytes(whole):
        return _keep_everything(workspace, whole, kept, budget)
    workspace, chosen = transformed(workspace, chosen, progress)
    table, meter, tokens = measure_in(workspace, chosen, progress)
    plan = solve(table, budget, solver=chosen.solver, preset=chosen.preset, constraints=given)
    if chosen.verify:
        plan = verified(workspace, table, plan, meter, tokens, chosen, progress)
    return Outcome(plan=plan, table=table, model=workspace.model)


def _open(model: Source, settings: Settings, progress: Progress) -> Workspace:
    workspace = Workspace.open(
        model,
        workdir=settings.workdir,
        dtype=settings.dtype,
        tokenizer=settings.tokenizer,
        experts=settings.experts,
        progress=progress,
    )
    warn_of_no_cache(workspace, settings)
    return workspace


def measure_in(
    workspace: Workspace, settings: Settings, progress: Progress = quiet
) -> tuple[CostTable, Meter, TokenSets]:
    """The cost table of an open workspace, with the meter and the tokens that made it."""
    settings = settle_estimator(workspace, settings)
    counts = choose_counts(workspace, settings)
    tokens = workspace.tokens(
        settings.calibration,
        counts=counts,
        seed=settings.seed,
        temperature=settings.temperature,
        progress=progress,
    )
    meter = workspace.meter(
        tokens,
        estimator=settings.estimator,
        quantizer=settings.renders_by,
        engine=settings.engine,
        workers=settings.workers,
        through=settings.through,
        menu=[[str(s) for s in menu or ()] for menu in (settings.schemes, settings.measured)],
        store_gb=settings.store_gb,
        progress=progress,
    )
    warn_of_unreached(meter, workspace.layers)
    rows, law_error = rows_in(workspace, meter, settings, progress)
    sublayers, costs = measured_sublayers(workspace, settings, tokens, progress)
    table = CostTable(
        provenance=provenance_of(workspace, tokens, settings, counts),
        rest_bytes=workspace.description.rest_bytes,
        law_error=law_error,
        rows=(
            *with_none(rows, costs),
            *measured_caches(workspace, settings, tokens, progress),
        ),
        sublayers=sublayers,
    )
    return table, meter, tokens


def _sizes(
    workspace: Workspace, legal: Mapping[Layer, tuple[Scheme, ...]], settings: Settings
) -> CostTable:
    """The table of bytes alone: enough to know what fits, before anything is measured."""
    sublayers = sublayers_of(workspace, settings)
    rows = tuple(
        Row(
            layer=layer,
            costs=tuple(
                Cost(scheme=s, bytes=scheme_bytes(layer.shape, s), loss=0.0, standard_error=0.0)
                for s in schemes
            ),
        )
        for layer, schemes in legal.items()
    )
    return CostTable(
        provenance=provenance_of(workspace, None, settings),
        rest_bytes=workspace.description.rest_bytes,
        rows=with_none(rows, costs_of_none(sublayers)),
        sublayers=sublayers,
    )


def _keep_everything(
    workspace: Workspace, table: CostTable, kept: Mapping[str, Scheme], budget: Budget
) -> Outcome:
    plan = plan_of(
        table,
        kept,
        budget_bytes=budget.total_bytes,
        solver="keep",
        status="The budget holds the whole model: every layer is kept as it is.",
        lower_bound=0.0,
    )
    return Outcome(plan=plan, table=table, model=workspace.model)
