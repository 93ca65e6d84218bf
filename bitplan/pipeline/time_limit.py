"""How many sequences of which length: settled for one model, within a time limit if need be."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from bitplan.calibration import (
    STEPS,
    Counts,
    check_length,
    inputs_of,
    length_of,
    own_length,
    sample_tokens,
    settle,
    within,
)
from bitplan.compress import AWQ, OMNIQUANT, reads_covariance, render
from bitplan.errors import CalibrationError, InputError
from bitplan.files import read_text, write_text
from bitplan.models import eager_experts, weight_of, wide_matmuls
from bitplan.pipeline.fingerprint import short_digest
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.workspace import Workspace
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity import LAYER_ESTIMATORS
from bitplan.sensitivity.objective import objective
from bitplan.sensitivity.watch import watch
from bitplan.tune import EPOCHS

STATISTICS, FISHER = 2.5, 6.5
"""Gathering statistics takes so many times the forward and backward pass that it makes, without and
with the diagonal Fisher: 2.0 to 2.4 and 6.4 of SmolLM2-135M in bfloat16."""

LEARNING = 1.2
"""An epoch of learning scales takes so many times that pass, of SmolLM2-135M in bfloat16."""

MEASURING = 1.3
"""Rendering, judging and storing takes so many times the rendering alone, of SmolLM2-135M."""

PROBE_PARAMETERS = 2**20
"""Weights that are rendered to see how long rendering takes."""

PROBE_TOKENS = 8
"""Tokens of each sequence that are drawn to see how long sampling takes."""

PROBE_SEQUENCES = 16
"""Sequences that are drawn at once, as when text is sampled."""


def choose_counts(workspace: Workspace, settings: Settings) -> Counts:
    """The counts of all that is measured under these settings.

    A time limit is measured against once: what was chosen is kept in the work folder, so that the
    same command goes on with the same tokens, however busy the machine is by then.
    """
    calibration = settings.calibration
    counts = settle(settings.sizes, workspace.model, own_length=own_length(calibration))
    if settings.time_limit_s is None:
        return counts
    _check_is_text(settings)
    legal = workspace.legal(settings.schemes)
    key = short_digest(
        settings.time_limit_s,
        counts,
        calibration is None,
        settings.estimator,
        settings.renders_by,
        settings.transform,
        [(layer.name, [str(scheme) for scheme in menu]) for layer, menu in legal.items()],
    )
    path = workspace.folder / f"counts-{key}.json"
    chosen = _read(path)
    if chosen is None:
        drawing_s, overhead_s = _seconds_without_passes(workspace, settings, counts, legal)
        passes = _passes(settings.estimator, settings.renders_by)
        if settings.transform == AWQ:  # by statistics of the model before it is folded
            passes += STATISTICS
        if settings.transform == OMNIQUANT:  # tokens are weighed first, in one pass
            passes += 1 + LEARNING * EPOCHS
        chosen = within(
            settings.time_limit_s,
            sequence_s=drawing_s + (passes * pass_s(workspace, counts.length) if passes else 0.0),
            overhead_s=overhead_s,
            counts=counts,
            steps=STEPS if passes else STEPS[:1],  # nothing would be learned from more
        )
        write_text(path, json.dumps(asdict(chosen)))
    return chosen


def fewest_s(
    workspace: Workspace, settings: Settings, estimators: Iterable[str]
) -> dict[str, float]:
    """Seconds of measuring with each estimator on the fewest sequences that a limit chooses."""
    _check_is_text(settings)
    sizes, given = settings.sizes, own_length(settings.calibration)
    counts = Counts(
        calibration=STEPS[0],
        search=sizes.search,
        held_out=sizes.held_out,
        length=length_of(sizes, workspace.model, own_length=given),
    )
    check_length(counts.length, workspace.model)
    legal = workspace.legal(settings.schemes)
    drawing_s, overhead_s = _seconds_without_passes(workspace, settings, counts, legal)
    one_s = pass_s(workspace, counts.length)
    return {
        name: overhead_s + STEPS[0] * (drawing_s + _passes(name, settings.renders_by) * one_s)
        for name in estimators
    }


def _check_is_text(settings: Settings) -> None:
    if inputs_of(settings.calibration) is not None:
        raise CalibrationError(
            "A time limit chooses how much text is read, and the calibration is no text. Give as "
            "many inputs as there is time for, and no time limit."
        )


def _passes(estimator: str, quantizer: str) -> float:
    """What gathering the statistics of a sequence takes, in forward and backward passes."""
    found = LAYER_ESTIMATORS.get(estimator)
    if found is not None and not found.moments and not reads_covariance(quantizer):
        return 0.0
    return FISHER if estimator == "fisher_diagonal" else STATISTICS


def _seconds_without_passes(
    workspace: Workspace,
    settings: Settings,
    counts: Counts,
    legal: Mapping[Layer, tuple[Scheme, ...]],
) -> tuple[float, float]:
    """Of each calibration sequence, and of all that does not depend on their number."""
    if settings.calibration is not None:
        # What is wrong with the text or its tokens is said before any pass over the model.
        workspace.tokens(settings.calibration, counts=counts, seed=settings.seed)
    overhead_s = MEASURING * rendering_s(workspace.model, legal, settings.renders_by)
    if settings.calibration is not None:
        return 0.0, overhead_s
    drawing_s = sampling_s(workspace.model, counts.length)
    return drawing_s, overhead_s + drawing_s * (counts.search + counts.held_out)


def pass_s(workspace: Workspace, length: int) -> float:
    """Seconds of a forward and a backward pass over one sequence."""
    tokens = torch.zeros((1, length), dtype=torch.int64)

    def run() -> None:
        with (
            torch.enable_grad(),
            eager_experts(workspace.model),
            wide_matmuls(),
            watch(workspace.model, workspace.layers, lambda seen: None),
        ):
            objective(workspace.model, tokens).backward()

    return _timed(run)


def rendering_s(
    model: nn.Module, legal: Mapping[Layer, tuple[Scheme, ...]], quantizer: str
) -> float:
    """Seconds of rendering all layers: those of one of middling size, by the number of weights.

    Of a larger layer the first rows are rendered. Few rows take longer than their share: the
    estimate is on the safe side.
    """
    layers = sorted(legal, key=lambda layer: layer.parameters)
    layer = layers[len(layers) // 2]
    weight = weight_of(model, layer)
    weight = weight[0] if weight.dim() == 3 else weight
    weight = weight[: max(1, PROBE_PARAMETERS // weight.shape[1])]
    covariance = torch.eye(weight.shape[1])
    seconds = _timed(
        lambda: render(weight, legal[layer], quantizer=quantizer, covariance=covariance)
    )
    return seconds * sum(layer.parameters for layer in layers) / weight.numel()


def sampling_s(model: nn.Module, length: int) -> float:
    """Seconds of drawing one sequence."""
    drawn = min(PROBE_TOKENS, length)
    seconds = _timed(lambda: sample_tokens(model, PROBE_SEQUENCES, drawn))
    return seconds / PROBE_SEQUENCES * length / drawn


def _timed(run: Callable[[], object]) -> float:
    """Seconds of the faster of two runs: the first one warms up."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _read(path: Path) -> Counts | None:
    if not path.is_file():
        return None
    try:
        return Counts(**json.loads(read_text(path)))
    except (json.JSONDecodeError, TypeError, InputError):
        return None  # damaged: measured again
