"""The stages that a caller sees: measure, allocate, apply_plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bitplan.allocator import plan_of, refine, smallest_bytes, solve, uniform
from bitplan.apply import check_plan, pack_caches_of, pack_layers
from bitplan.calibration import (
    SAMPLED,
    Calibration,
    Counts,
    Sizes,
    TokenSets,
    settle,
    tokens_digest,
)
from bitplan.compress import render
from bitplan.errors import CalibrationError, InfeasibleError, ModelError, PlanError
from bitplan.footprint import scheme_bytes
from bitplan.formats import Packed
from bitplan.models import Inputs, Source, weight_of
from bitplan.pipeline.caches import (
    caches_of,
    kept_caches,
    legal_caches,
    measured_caches,
    warn_of_no_cache,
)
from bitplan.pipeline.estimator import settle_estimator
from bitplan.pipeline.judge import Judge
from bitplan.pipeline.rows import rows_in
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.time_limit import choose_counts
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress, quiet, track
from bitplan.schema import (
    Budget,
    Cost,
    CostTable,
    Evidence,
    Layer,
    Measured,
    Plan,
    Provenance,
    Row,
    Scheme,
)
from bitplan.sensitivity import Meter

UNIFORMS = 2
"""Uniform plans that are measured: those of least predicted KL among all that fit."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A plan, the table that it was solved from, and the model, its weights as they were."""

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
    chosen = Settings(**settings)
    workspace = _open(model, chosen, progress)
    return measure_in(workspace, chosen, progress)[0]


def allocate(
    model: Source, budget_gb: float | Budget, *, progress: Progress = quiet, **settings: Any
) -> Plan:
    """Measure a model, fit it into a budget, and check the answer on the model itself.

    Of the solved plan, its refinement and the uniform plans that fit, the one with the lowest KL
    on held-out tokens is returned; the plan's `evidence` holds all that was measured.

    Args:
        model: a module, a local folder, a .gguf file or a hub id. A module is lent: its weights are
            swapped while plans are measured, and put back.
        budget_gb: for the whole model, in gigabytes of 10^9 bytes, or a `Budget`.
        progress: told how far each stage is.
        settings: see `Settings`.

    Raises:
        InfeasibleError: nothing fits; found before anything is measured.
        InputError: a model, text or setting that cannot be used.
    """
    return run(model, budget_gb, progress=progress, **settings).plan


def run(
    model: Source, budget_gb: float | Budget, *, progress: Progress = quiet, **settings: Any
) -> Outcome:
    """As `allocate`, and gives the table and the model as well."""
    chosen, budget = Settings(**settings), Budget.of(budget_gb)
    workspace = _open(model, chosen, progress)
    caches = legal_caches(workspace, chosen)
    legal = workspace.legal(chosen.schemes) | caches
    kept = workspace.kept() | kept_caches(workspace, caches)
    sizes = _sizes(workspace, legal, chosen)
    smallest = smallest_bytes(sizes, pins=chosen.pins, fuse=chosen.fuse)
    if budget.total_bytes < smallest:
        raise InfeasibleError(budget.total_bytes, smallest)
    chosen = settle_estimator(workspace, chosen)
    may_keep = not chosen.pins and all(kept[layer.name] in menu for layer, menu in legal.items())
    whole = _sizes(workspace, {layer: (kept[layer.name],) for layer in legal}, chosen)
    if may_keep and budget.total_bytes >= smallest_bytes(whole):
        return _keep_everything(workspace, whole, kept, budget)
    table, meter, tokens = measure_in(workspace, chosen, progress)
    plan = solve(table, budget, solver=chosen.solver, pins=chosen.pins, fuse=chosen.fuse)
    if chosen.verify:
        plan = _verified(workspace, table, plan, meter, tokens, chosen, progress)
    return Outcome(plan=plan, table=table, model=workspace.model)


def apply_plan(
    model: Source,
    plan: Plan,
    *,
    workdir: str | Path | None = None,
    calibration: Calibration = None,
    tokenizer: Any = None,
    progress: Progress = quiet,
) -> nn.Module:
    """Put packed layers in place of dense ones.

    A module is changed in place and its dense weights are freed. The compressed weights come from
    the work folder; on a machine that has not got them they are rendered again, which needs the
    calibration text that the plan was made with, unless it was sampled from the model.

    Raises:
        PlanError: the plan was made for another model.
        CalibrationError: weights must be rendered, and the calibration text is not given.
    """
    workspace = Workspace.open(
        model, workdir=workdir, dtype=plan.provenance.dtype, tokenizer=tokenizer, progress=progress
    )
    made = plan.provenance
    caches = caches_of(workspace, context=made.context, batch=made.batch)
    check_plan(plan, (*workspace.layers, *(c.layer for c in caches)), workspace.digest)
    if workspace.dtype != plan.provenance.dtype:
        raise PlanError(
            f"The plan was made for the model in {plan.provenance.dtype}, but this one is in "
            f"{workspace.dtype}, so its bytes would not be the plan's. Convert it first: "
            f"model.to(torch.{plan.provenance.dtype})."
        )
    store = workspace.store(plan.provenance.calibration_digest, plan.provenance.quantizer)
    schemes = {layer: plan.schemes[layer.name] for layer in workspace.layers}
    kept = workspace.kept()
    missing = [
        layer
        for layer, scheme in schemes.items()
        if scheme != kept[layer.name] and store.get(layer, scheme) is None
    ]
    if missing:
        _render(workspace, plan, missing, calibration, progress)

    def packed_of(layer: Layer, scheme: Scheme) -> Packed:
        packed = store.get(layer, scheme)
        assert packed is not None
        return packed

    packed = pack_layers(workspace.model, schemes, packed_of, progress=progress)
    return pack_caches_of(packed, plan)


def _open(model: Source, settings: Settings, progress: Progress) -> Workspace:
    workspace = Workspace.open(
        model,
        workdir=settings.workdir,
        dtype=settings.dtype,
        tokenizer=settings.tokenizer,
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
        quantizer=settings.quantizer,
        engine=settings.engine,
        workers=settings.workers,
        through=settings.through,
        menu=[[str(s) for s in menu or ()] for menu in (settings.schemes, settings.measured)],
        progress=progress,
    )
    rows, law_error = rows_in(workspace, meter, settings, progress)
    table = CostTable(
        provenance=_provenance(workspace, tokens, settings, counts),
        rest_bytes=workspace.description.rest_bytes,
        law_error=law_error,
        rows=(*rows, *measured_caches(workspace, settings, tokens, progress)),
    )
    return table, meter, tokens


def _provenance(
    workspace: Workspace,
    tokens: TokenSets | None,
    settings: Settings,
    counts: Counts | None = None,
) -> Provenance:
    return workspace.provenance(
        tokens,
        estimator=settings.estimator,
        quantizer=settings.quantizer,
        seed=settings.seed,
        temperature=settings.temperature,
        counts=counts,
        context=settings.context,
        batch=settings.batch,
    )


def _sizes(
    workspace: Workspace, legal: Mapping[Layer, tuple[Scheme, ...]], settings: Settings
) -> CostTable:
    """The table of bytes alone: enough to know what fits, before anything is measured."""
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
        provenance=_provenance(workspace, None, settings),
        rest_bytes=workspace.description.rest_bytes,
        rows=rows,
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


def _verified(
    workspace: Workspace,
    table: CostTable,
    solved: Plan,
    meter: Meter,
    tokens: TokenSets,
    settings: Settings,
    progress: Progress,
) -> Plan:
    """The best measured of the solved, the refined and the uniform plans."""
    sets = {"search": tokens.search, "held_out": tokens.held_out}
    judge = Judge(workspace=workspace, meter=meter, tokens=sets, progress=progress)
    with judge.borrowed():
        plans = {"solved": solved}
        evaluations = settings.refine_tokens // Inputs.of(tokens.search).tokens
        if evaluations > 1:
            refined = refine(
                table,
                solved,
                lambda assignment: judge.measure(assignment, "search").kl,
                evaluations=evaluations,
                pins=settings.pins,
                fuse=settings.fuse,
                progress=progress,
            )
            if refined.accepted:
                plans["refined"] = refined.plan
        fitting = uniform(
            table, Budget(bytes=solved.budget_bytes), pins=settings.pins, fuse=settings.fuse
        )
        for plan in sorted(fitting, key=lambda plan: plan.predicted_kl)[:UNIFORMS]:
            plans[plan.solver] = plan
        return _best(plans, judge)


def _best(plans: Mapping[str, Plan], judge: Judge) -> Plan:
    measured = {}
    for name, plan in plans.items():
        found = judge.measure(plan.schemes, "held_out")
        if not found.is_finite:  # nothing to rank
            continue
        measured[name] = Measured(
            name=name,
            bytes=plan.bytes,
            kl=found.mean,
            standard_error=found.standard_error,
            perplexity=found.perplexity,
        )
    if not measured:
        raise ModelError(
            f"Under every plan tried ({', '.join(plans)}) the model's outputs are not finite. "
            "Raise the budget, or load the model in bfloat16 or float32."
        )
    ranked = sorted(measured.values(), key=lambda one: one.kl)
    best = ranked[0]
    uniforms = [one for one in ranked if one.name.startswith("uniform")]
    held_out = judge.tokens["held_out"]
    evidence = Evidence(
        tokens=Inputs.of(held_out).tokens,
        tokens_digest=tokens_digest(held_out),
        reference_perplexity=judge.reference("held_out").perplexity,
        plan=best,
        uniform=uniforms[0] if uniforms else None,
        others=tuple(one for one in measured.values() if one not in (best, *uniforms[:1])),
    )
    return plans[best.name].model_copy(update={"evidence": evidence})


def _render(
    workspace: Workspace,
    plan: Plan,
    layers: list[Layer],
    calibration: Calibration,
    progress: Progress,
) -> None:
    """Fill the store with what the plan needs and this machine lacks."""
    made = plan.provenance
    store = workspace.store(made.calibration_digest, made.quantizer)
    needy = []
    for layer in layers:
        scheme = plan.schemes[layer.name]
        if scheme.is_float or made.quantizer == "rtn":
            rendered = render(weight_of(workspace.model, layer), [scheme], quantizer="rtn")
            store.put(layer, rendered[scheme])
        else:
            needy.append(layer)
    if not needy:
        return
    was_sampled = made.calibration.startswith(SAMPLED)
    if calibration is None and not was_sampled:
        raise CalibrationError(
            f"The plan's compressed weights are not in {workspace.folder.parent}, and to make them "
            f"again takes the text that it was calibrated on ({made.calibration}). Give that text "
            "as calibration, or the work folder where the plan was made."
        )
    tokens = workspace.tokens(
        calibration,
        counts=settle(Sizes(**made.sizes), workspace.model),
        seed=made.seed,
        temperature=made.temperature,
        progress=progress,
    )
    if tokens_digest(tokens.calibration) != made.calibration_digest:
        advice = "Give the same text, or allocate again with the new one."
        if was_sampled and calibration is None:
            advice = (
                "This machine or version of torch draws others: give the work folder where the "
                "plan was made, or allocate again here."
            )
        raise CalibrationError(
            f"These are not the tokens that the plan was calibrated on ({made.calibration}). "
            f"{advice}"
        )
    meter = workspace.meter(
        tokens, estimator=made.estimator, quantizer=made.quantizer, progress=progress
    )
    for layer in track(needy, "render", progress):
        meter.packed(layer, [plan.schemes[layer.name]])
