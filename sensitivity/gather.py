"""Run the model over the calibration tokens and gather the statistics of its layers."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models import eager_experts, next_token_logits
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer
from bitplan.sensitivity.statistics import LayerStatistics, Statistics, StatisticsFile
from bitplan.sensitivity.watch import Seen, watch

BATCH_TOKENS = 512
"""Tokens that go through the model at once: bounds the memory that activations take."""

SAVE_EVERY_S = 60.0


def gather(
    model: nn.Module,
    layers: Sequence[Layer],
    tokens: Int[Tensor, "sequences length"],
    path: Path,
    *,
    fisher: bool = False,
    progress: Progress = quiet,
) -> StatisticsFile:
    """Gather statistics of `layers` over `tokens` into the file `path`.

    The model takes `input_ids` and returns next-token `logits`; it stays as it is, down to its
    gradients. A file that is there already is used if it is whole. An interrupted run leaves `path`
    with the suffix `.partial` and goes on from there; the final file is the same, byte for byte.
    Raises `ModelError` for a loss or gradient that is not finite.
    """
    batches = tokens.split(max(1, BATCH_TOKENS // tokens.shape[1]))
    find = partial(StatisticsFile.find, layers=layers, batches=len(batches), fisher=fisher)
    if (found := find(path)) is not None and found.batches_done == len(batches):
        return found
    unfinished = path.with_name(path.name + ".partial")
    if (begun := find(unfinished)) is not None:
        sums = begun.load([layer.name for layer in layers])
    else:
        empty = partial(LayerStatistics.zeros, batches=len(batches), fisher=fisher)
        sums = Statistics(layers={layer.name: empty(layer) for layer in layers})
    saved_at = time.monotonic()
    try:
        for index in range(sums.batches_done, len(batches)):
            progress("statistics", index, len(batches))
            _add_batch(model, layers, batches[index], index, sums)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                sums.save(unfinished)
                saved_at = time.monotonic()
        sums.save(path)
    except KeyboardInterrupt:
        if not sums.is_torn:
            sums.save(unfinished)
        raise
    unfinished.unlink(missing_ok=True)
    progress("statistics", len(batches), len(batches))
    return StatisticsFile(path)


def _add_batch(
    model: nn.Module, layers: Sequence[Layer], tokens: Tensor, index: int, sums: Statistics
) -> None:
    # All is collected first and added last: nearly always an interrupt leaves the sums whole.
    seen: list[Seen] = []
    with torch.enable_grad(), ExitStack() as stack:
        stack.enter_context(eager_experts(model))
        stack.enter_context(watch(model, layers, seen.append))
        loss = next_token_loss(model, tokens)
        _check_finite(loss, f"The loss on calibration batch {index}")
        if loss.requires_grad:
            loss.backward()
    for one in seen:
        _check_finite(one.gradients, f"A gradient at {one.layer.name}, calibration batch {index},")
    sums.is_torn = True
    for one in seen:
        statistics = sums.layers[one.layer.name]
        if one.inputs is None:
            statistics.add_lookup(one.gradients, batch=index, vocabulary=one.layer.shape[0])
        else:
            statistics.add(one.inputs, one.gradients, batch=index, expert=one.expert)
    sums.batches_done = index + 1
    sums.tokens += tokens.numel()
    sums.is_torn = False


def _check_finite(values: Tensor, name: str) -> None:
    if not values.isfinite().all():
        raise ModelError(
            f"{name} is not finite. Check the model's weights and the tokens, or load the model in "
            "a wider dtype: bfloat16 in place of float16, or float32."
        )


def next_token_loss(model: nn.Module, tokens: Int[Tensor, "sequences length"]) -> Tensor:
    """Negative log-likelihood of each sequence's tokens after the first, summed, in nats."""
    logits = next_token_logits(model, tokens)[:, :-1]
    targets = tokens[:, 1:].to(logits.device)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="sum"
    )
