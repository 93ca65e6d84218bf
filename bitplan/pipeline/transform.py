"""The stage that folds a transform into the model, before anything else is measured of it."""

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor, nn

from bitplan.calibration import Sizes, TokenSets, tokens_digest
from bitplan.compress import AWQ, NONE, OMNIQUANT, SEARCHED, fold, search_scales
from bitplan.files import make_folder, remove_stale
from bitplan.models import Inputs, check_finite, find_neighbours
from bitplan.pipeline.estimator import settle_estimator
from bitplan.pipeline.fingerprint import short_digest
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.time_limit import choose_counts
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress, quiet
from bitplan.sensitivity import block_outputs, torch_threads
from bitplan.tensors import load_tensors, save_tensors
from bitplan.tune import Equivalents, Lessons, learn_equivalents

VERSION = 1
"""Raised when a transform comes out otherwise than before."""


def transformed(
    workspace: Workspace, settings: Settings, progress: Progress = quiet
) -> tuple[Workspace, Settings]:
    """The workspace of the folded model, and settings with the tokens that the model gave before.

    A module that was lent is copied; a model that was loaded is changed, and held in memory whole,
    even where it was mapped from its file.
    """
    if settings.transform == NONE:
        return workspace, settings
    find_neighbours(workspace.model)  # raises, before anything takes time
    settings = settle_estimator(workspace, settings)
    counts = choose_counts(workspace, settings)
    tokens = workspace.tokens(
        settings.calibration,
        counts=counts,
        seed=settings.seed,
        temperature=settings.temperature,
        progress=progress,
    )
    if isinstance(workspace.source, nn.Module):
        workspace = replace(workspace, model=copy.deepcopy(workspace.model))
    folded = folded_workspace(
        workspace,
        settings.transform,
        calibration_digest=tokens_digest(tokens.calibration),
        tokens_of=lambda: tokens,
        seed=settings.seed,
        through=settings.through,
        progress=progress,
    )
    sizes = Sizes(**asdict(counts))
    return folded, replace(settings, calibration=tokens, sizes=sizes, time_limit_s=None)


def folded_workspace(
    workspace: Workspace,
    transform: str,
    *,
    calibration_digest: str,
    tokens_of: Callable[[], TokenSets],
    seed: int,
    through: str = "auto",
    progress: Progress = quiet,
) -> Workspace:
    """Fold a transform into a workspace's model, in place; its work has a folder of its own.

    The digest stays that of the model as it was given. `tokens_of` is asked only where scales are
    searched or learned, which are kept beside the statistics of that model.
    """
    if transform == NONE:
        return workspace
    key = short_digest(VERSION, transform, seed, calibration_digest, str(SEARCHED))
    path = workspace.folder / f"scales-{key}.safetensors"
    scales = shifts = None
    if transform == AWQ:
        scales = load_tensors(path)
        if scales is None:
            scales = _scales(workspace, tokens_of(), through, progress)
            save_tensors(path, scales)
    if transform == OMNIQUANT:
        found = _learned(workspace, path, tokens_of, seed, progress)
        scales, shifts = found.scales, found.shifts
    # On more threads sums round in another order.
    with torch_threads(1):
        fold(workspace.model, transform, scales=scales, shifts=shifts, seed=seed)
    check_finite(workspace.model, workspace.layers)
    folder = workspace.folder.parent / f"{workspace.folder.name}-{transform}-{key}"
    remove_stale(make_folder(folder))
    return replace(workspace, folder=folder)


def _scales(
    workspace: Workspace, tokens: TokenSets, through: str, progress: Progress
) -> dict[str, Tensor]:
    meter = workspace.meter(
        tokens,
        estimator="gradient_covariance",
        quantizer="gptq",
        through=through,
        progress=progress,
    )
    statistics = meter.statistics["data"]
    layers = {layer.name: layer for layer in workspace.layers}

    def covariance(path: str) -> Tensor:
        return statistics.completed(layers[path], ("covariance",)).covariance

    with torch_threads(1):
        return search_scales(workspace.model, covariance, progress=progress)


def _learned(
    workspace: Workspace,
    path: Path,
    tokens_of: Callable[[], TokenSets],
    seed: int,
    progress: Progress,
) -> Equivalents:
    """What is kept at a path, or else is learned; block by block, in a folder beside it."""
    tensors = load_tensors(path)
    if tensors is not None:
        return Equivalents.of(tensors)
    inputs, folder = Inputs.of(tokens_of().calibration), make_folder(path.with_suffix(""))
    weights = folder / "weights.safetensors"
    kept = load_tensors(weights)
    if kept is None:
        kept = {"matters": block_outputs(workspace.model, inputs, progress=progress)}
        save_tensors(weights, kept)
    found = learn_equivalents(
        workspace.model,
        Lessons(inputs=inputs, matters=kept["matters"]),
        scheme=SEARCHED,
        seed=seed,
        folder=folder,
        progress=progress,
    )
    save_tensors(path, found.tensors())
    weights.unlink(missing_ok=True)
    return found
