"""The estimator that `auto` stands for, on one model and machine: chosen once, and kept."""

import json
import logging
import math
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitplan.allocator import get_preset
from bitplan.calibration import SEQUENCES, inputs_of
from bitplan.compress import reads_covariance
from bitplan.errors import InputError
from bitplan.files import read_text, write_text
from bitplan.memory import total_memory_bytes
from bitplan.models import Source, predicts_next_token
from bitplan.pipeline.fingerprint import short_digest
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.time_limit import fewest_s
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer
from bitplan.sensitivity import (
    AUTO,
    LADDER,
    LAYER_ESTIMATORS,
    Resources,
    choose_estimator,
    statistics_bytes,
)

log = logging.getLogger(__name__)


def which_estimator(
    model: Source, *, progress: Progress = quiet, **settings: Any
) -> tuple[str, str]:
    """The estimator that `measure` and `allocate` would take, and the reason in a sentence.

    Nothing is measured, but for the time of a few passes where there is a time limit that the
    choice depends on.

    Args:
        model: a module, a local folder, a .gguf file or a hub id.
        progress: told how far loading is.
        settings: those of `measure`; see `Settings`.

    Raises:
        InputError: a model, text or setting that cannot be used.
    """
    chosen = Settings.of(settings)
    workspace = Workspace.open(
        model,
        workdir=chosen.workdir,
        dtype=chosen.dtype,
        tokenizer=chosen.tokenizer,
        experts=chosen.experts,
        progress=progress,
    )
    if chosen.estimator != AUTO:
        return chosen.estimator, "It was asked for by its name."
    return _choice(workspace, chosen, keep=False)


def settle_estimator(workspace: Workspace, settings: Settings) -> Settings:
    """The settings with an estimator's name in place of `auto`.

    Free disk shrinks as statistics are gathered, and the time of a pass is never twice the same.
    What was chosen is kept in the work folder, so that the same command goes on with it.
    """
    if settings.estimator != AUTO:
        return settings
    name, why = _choice(workspace, settings, keep=True)
    log.info("The estimator is %s: %s", name, why)
    return replace(settings, estimator=name)


def _choice(workspace: Workspace, settings: Settings, *, keep: bool) -> tuple[str, str]:
    if settings.preset is not None:
        preset = get_preset(settings.preset)
        return preset.estimators[0], f"It is what {preset.title} asks for."
    if reads_covariance(settings.renders_by):  # whatever there is: nothing to keep
        return choose_estimator({}, _machine(workspace, settings), reads_covariance=True)
    path = _path(workspace, settings)
    found = _read(path)
    if found is None:
        found = _choose(workspace, settings)
        if keep:
            write_text(path, json.dumps(found))
    return found


def _path(workspace: Workspace, settings: Settings) -> Path:
    """Of what was chosen. Another scheme or budget is no other choice: costs are kept by it."""
    key = short_digest(
        settings.renders_by,
        settings.time_limit_s,
        settings.calibration is None,
        settings.sizes,
        _runs_by_blocks(workspace, settings),
    )
    return workspace.folder / f"estimator-{key}.json"


def _read(path: Path) -> tuple[str, str] | None:
    if not path.is_file():
        return None
    try:
        name, why = json.loads(read_text(path))
    except (ValueError, TypeError, InputError):
        return None  # damaged: chosen again
    return (name, str(why)) if name in LADDER else None


def _choose(workspace: Workspace, settings: Settings) -> tuple[str, str]:
    candidates = LADDER[:-1]
    seconds = dict.fromkeys(candidates, 0.0)
    if settings.time_limit_s is not None:
        seconds = fewest_s(workspace, settings, candidates)
    takes = {name: _takes(workspace, settings, name, seconds[name]) for name in candidates}
    return choose_estimator(takes, _machine(workspace, settings))


def _machine(workspace: Workspace, settings: Settings) -> Resources:
    return Resources(
        disk_bytes=shutil.disk_usage(workspace.folder).free,
        memory_bytes=total_memory_bytes(),
        seconds=settings.time_limit_s or math.inf,
    )


def _takes(workspace: Workspace, settings: Settings, name: str, seconds: float) -> Resources:
    moments = LAYER_ESTIMATORS[name].moments
    sequences = settings.sizes.calibration or SEQUENCES
    groups: dict[int | None, list[Layer]] = defaultdict(list)
    for layer in workspace.layers:
        groups[layer.block].append(layer)
    sizes = [statistics_bytes(group, moments, sequences) for group in groups.values()]
    if _runs_by_blocks(workspace, settings):
        held = max(sizes)
    else:
        held = sum(sizes) + workspace.description.bytes
    return Resources(disk_bytes=sum(sizes), memory_bytes=held, seconds=seconds)


def _runs_by_blocks(workspace: Workspace, settings: Settings) -> bool:
    """Whether one block's statistics may be in memory at a time, as far as can be told unrun."""
    reads_text = inputs_of(settings.calibration) is None and predicts_next_token(workspace.model)
    return settings.through != "whole" and reads_text
