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
from bitplan.models import eager_experts
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

    The model takes `input_ids` and returns next-token `logits`; its weights stay as they are.
    An interrupted run leaves `path` with the suffix `.partial` and goes on from there; the final
    file is the same, byte for byte. Raises `ModelError` for a loss that is not finite.
    """
    if path.exists():
        return StatisticsFile(path)
    batches = tokens.split(max(1, BATCH_TOKENS // tokens.shape[1]))
    unfinished = path.with_name(path.name + ".partial")
    sums = _start(layers, len(batches), fisher, unfinished)
    saved_at = time.monotonic()
    try:
        for index in range(sums.batches_done, len(batches)):
            progress("statistics", index, len(batches))
            _add_batch(model, layers, batches[index], index, sums)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                sums.save(unfinished)
                saved_at = time.monotonic()
    except KeyboardInterrupt:
        sums.save(unfinished)
        raise
    progress("statistics", len(batches), len(batches))
    sums.save(path)
    unfinished.unlink(missing_ok=True)
    return StatisticsFile(path)


def _start(layers: Sequence[Layer], batches: int, fisher: bool, unfinished: Path) -> Statistics:
    if unfinished.exists():
        return StatisticsFile(unfinished).load([layer.name for layer in layers])
    empty = partial(LayerStatistics.zeros, batches=batches, fisher=fisher)
    return Statistics(layers={layer.name: empty(layer) for layer in layers})


def _add_batch(
    model: nn.Module, layers: Sequence[Layer], tokens: Tensor, index: int, sums: Statistics
) -> None:
    # All is collected first and added last, so that an interrupt leaves the sums as they were.
    seen: list[Seen] = []
    with torch.enable_grad(), ExitStack() as stack:
        stack.enter_context(eager_experts(model))
        stack.enter_context(watch(model, layers, seen.append))
        loss = next_token_loss(model, tokens)
        if not loss.isfinite():
            raise ModelError(
                f"The loss on calibration batch {index} is {loss.item()}. Check the model's "
                "weights and the tokens, or load the model in float32 (dtype='float32')."
            )
        loss.backward()
    for one in seen:
        statistics = sums.layers[one.layer.name]
        if one.inputs is None:
            statistics.add_lookup(one.gradients, batch=index, vocabulary=one.layer.shape[0])
        else:
            statistics.add(one.inputs, one.gradients, batch=index, expert=one.expert)
    sums.batches_done = index + 1
    sums.tokens += tokens.numel()


def next_token_loss(model: nn.Module, tokens: Int[Tensor, "sequences length"]) -> Tensor:
    """Negative log-likelihood of each sequence's tokens after the first, summed, in nats."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    targets = tokens[:, 1:].to(logits.device)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="sum"
    )
