"""The stage that puts packed layers in place of dense ones, and tunes them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bitplan.apply import check_plan, pack_caches_of, pack_layers
from bitplan.calibration import SAMPLED, Calibration, Sizes, TokenSets, settle, tokens_digest
from bitplan.compress import NONE, reads_covariance, render
from bitplan.effort import STANDARD, get_effort
from bitplan.errors import CalibrationError, InputError, PlanError
from bitplan.export import tell_transformers
from bitplan.models import Source, weight_of
from bitplan.pipeline.caches import caches_of
from bitplan.pipeline.transform import folded_workspace
from bitplan.pipeline.tuning import BlockTuning, Passes, Tuning, tuned
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress, quiet, track
from bitplan.schema import Layer, Plan
from bitplan.unserved import check_kernels


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A model with packed layers, and what tuning and training its blocks did, if asked for."""

    model: nn.Module
    tuning: Tuning | None = None
    blocks: BlockTuning | None = None


def apply_plan(
    model: Source,
    plan: Plan,
    *,
    workdir: str | Path | None = None,
    calibration: Calibration = None,
    tokenizer: Any = None,
    effort: str = STANDARD,
    tune_epochs: float | None = None,
    block_epochs: float = 0,
    block_window: int = 1,
    strict: bool = False,
    progress: Progress = quiet,
) -> nn.Module:
    """Put packed layers in place of dense ones.

    A module is changed in place and its dense weights are freed. The compressed weights come from
    the work folder; on a machine that has not got them they are rendered again, which needs the
    calibration text that the plan was made with, unless it was sampled from the model.

    Tuning moves scales, offsets, norms and biases to where the model is nearest to what it was (see
    `bitplan.tune`). It takes no bytes, goes over the calibration tokens, forward and back,
    `tune_epochs` times, and needs their text in the same way. The work folder keeps how far it is.

    Before that each block may be trained on its own, codes too, to give what it gave in the model
    that was: `block_epochs` times over the same tokens (see `bitplan.tune.blocks`).

    Args:
        model: a module, a local folder, a .gguf file or a hub id.
        plan: what `allocate` gave.
        workdir: where work is kept; None: bitplan's folder in the user's cache.
        calibration: the text that the plan was made with.
        tokenizer: for that text, when the model is a module.
        effort: a name of `bitplan.effort.EFFORTS`, which says how long to tune; "standard" does
            not.
        tune_epochs: 0: no tuning. 8 is enough. None: the effort's.
        block_epochs: 0: blocks are not trained.
        block_window: neighbouring blocks that are trained together, all but one of them again
            with the next. With 2 it takes about twice as long.
        strict: refuse schemes that no kernel multiplies where the model is, in place of a warning.
        progress: told how far each stage is.

    Raises:
        PlanError: the plan was made for another model.
        CalibrationError: the calibration text is needed, and not given.
        SchemeError: one of the schemes has no kernel, and `strict` asks for one.
        InputError: there is no such effort, one of the epochs is below zero, or there is nothing
            to tune.
        ModelError: its blocks are to be trained, and it is no chain of blocks.
    """
    return run_apply(
        model,
        plan,
        workdir=workdir,
        calibration=calibration,
        tokenizer=tokenizer,
        effort=effort,
        tune_epochs=tune_epochs,
        block_epochs=block_epochs,
        block_window=block_window,
        strict=strict,
        progress=progress,
    ).model


def run_apply(
    model: Source,
    plan: Plan,
    *,
    workdir: str | Path | None = None,
    calibration: Calibration = None,
    tokenizer: Any = None,
    effort: str = STANDARD,
    tune_epochs: float | None = None,
    block_epochs: float = 0,
    block_window: int = 1,
    strict: bool = False,
    progress: Progress = quiet,
) -> Applied:
    """As `apply_plan`, and says what tuning did."""
    passes = _passes(effort, tune_epochs, block_epochs, block_window)
    workspace = Workspace.open(
        model,
        workdir=workdir,
        dtype=plan.provenance.dtype,
        tokenizer=tokenizer,
        experts=plan.experts,
        progress=progress,
    )
    made = plan.provenance
    caches = caches_of(workspace, context=made.context, batch=made.batch)
    check_plan(plan, (*workspace.layers, *(c.layer for c in caches)), workspace.digest)
    if workspace.dtype != made.dtype:
        raise PlanError(
            f"The plan was made for the model in {made.dtype}, but this one is in "
            f"{workspace.dtype}, so its bytes would not be the plan's. Convert it first: "
            f"model.to(torch.{made.dtype})."
        )
    device = next(iter(workspace.model.parameters())).device
    check_kernels(((c.layer, c.scheme) for c in plan.choices), device, strict=strict)
    if made.transform != NONE:
        workspace, calibration = _folded(workspace, plan, calibration, progress)
    store = workspace.store(made.calibration_digest, made.quantizer)
    schemes = {layer: plan.schemes[layer.name] for layer in workspace.layers}
    kept = workspace.kept()
    missing = [
        layer
        for layer, scheme in schemes.items()
        if scheme != kept[layer.name] and store.get(layer, scheme) is None
    ]
    if missing:
        _render(workspace, plan, missing, calibration, progress)

    if not passes.epochs and not passes.block_epochs:
        packed = pack_layers(workspace.model, schemes, store.require, progress=progress)
        return Applied(model=_finished(packed, plan))
    found = tuned(
        workspace,
        plan,
        schemes,
        lambda: _tokens_of(
            workspace,
            plan,
            calibration,
            progress,
            why="To tune it",
            advice="Give that text as calibration, or leave tuning out.",
        ),
        passes,
        progress=progress,
    )
    model = _finished(found.model, plan)
    return Applied(model=model, tuning=found.tuning, blocks=found.blocks)


def _finished(packed: nn.Module, plan: Plan) -> nn.Module:
    """The packed model with the plan's cache, and known to transformers as such."""
    return tell_transformers(pack_caches_of(packed, plan), plan)


def _passes(
    effort: str, tune_epochs: float | None, block_epochs: float, block_window: int
) -> Passes:
    """What is asked for, or else the effort's."""
    if tune_epochs is None:
        tune_epochs = get_effort(effort).tune_epochs
    for name, number in (("tune_epochs", tune_epochs), ("block_epochs", block_epochs)):
        if not 0 <= number < math.inf:
            raise InputError(f"{name} is {number}; it must be 0 or more.")
    if block_window < 1:
        raise InputError(f"block_window is {block_window}; it must be 1 or more.")
    return Passes(epochs=tune_epochs, block_epochs=block_epochs, block_window=block_window)


def _folded(
    workspace: Workspace, plan: Plan, calibration: Calibration, progress: Progress
) -> tuple[Workspace, Calibration]:
    """The workspace of the model that the plan's weights are of, and the calibration to go on with.

    Text that was sampled is that of the model as it was given.
    """
    made = plan.provenance

    def tokens_of() -> TokenSets:
        return _tokens_of(
            workspace,
            plan,
            calibration,
            progress,
            why=f'The scales of the transform "{made.transform}" are not in {workspace.folder}, '
            "and to find them again",
            advice="Give that text as calibration, or the work folder where the plan was made.",
        )

    if calibration is None and made.calibration.startswith(SAMPLED):
        calibration = tokens_of()
    folded = folded_workspace(
        workspace,
        made.transform,
        calibration_digest=made.calibration_digest,
        tokens_of=tokens_of,
        seed=made.seed,
        progress=progress,
    )
    return folded, calibration


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
        if scheme.is_float or not reads_covariance(made.quantizer):
            weight = weight_of(workspace.model, layer)
            rendered = render(weight, [scheme], quantizer=made.quantizer)
            store.put(layer, rendered[scheme])
        else:
            needy.append(layer)
    if not needy:
        return
    tokens = _tokens_of(
        workspace,
        plan,
        calibration,
        progress,
        why=f"The plan's compressed weights are not in {workspace.folder.parent}, and to make them "
        "again",
        advice="Give that text as calibration, or the work folder where the plan was made.",
    )
    meter = workspace.meter(
        tokens, estimator=made.estimator, quantizer=made.quantizer, progress=progress
    )
    for layer in track(needy, "render", progress):
        meter.packed(layer, [plan.schemes[layer.name]])


def _tokens_of(
    workspace: Workspace,
    plan: Plan,
    calibration: Calibration,
    progress: Progress,
    *,
    why: str,
    advice: str,
) -> TokenSets:
    """The very tokens that a plan was calibrated on. Raises `CalibrationError` without them."""
    made = plan.provenance
    was_sampled = made.calibration.startswith(SAMPLED)
    if calibration is None and not was_sampled:
        raise CalibrationError(
            f"{why} takes the text that it was calibrated on ({made.calibration}). {advice}"
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
    return tokens
