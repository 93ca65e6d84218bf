"""Which way through the model: whole while it fits into memory, else block by block."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.memory import total_memory_bytes
from bitplan.models import Inputs, predicts_next_token, weight_of
from bitplan.names import check_pass
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.passes.blockwise import BlockWise
from bitplan.sensitivity.passes.passes import AbstractPass
from bitplan.sensitivity.passes.whole import WholeModel

log = logging.getLogger(__name__)

SHARE = 0.7
"""Of the machine's memory that one pass may take."""


def choose_pass(
    *, model_bytes: int, activation_bytes: int, statistics_bytes: int, memory_bytes: int
) -> tuple[str, str]:
    """`whole` or `blocks`, and why.

    Args:
        model_bytes: of all weights.
        activation_bytes: of one sequence, kept for the way back.
        statistics_bytes: of what is summed up over sequences.
        memory_bytes: of the machine, free or not, so that the choice is always the same on it.

    >>> choose_pass(
    ...     model_bytes=16_000, activation_bytes=500, statistics_bytes=40_000, memory_bytes=64_000
    ... )[0]
    'blocks'
    """
    needed, limit = model_bytes + activation_bytes + statistics_bytes, int(SHARE * memory_bytes)
    why = (
        f"weights, activations and statistics of the whole model take about {needed:,} bytes, and "
        f"{limit:,} is what {SHARE:.0%} of this machine's memory comes to"
    )
    return ("whole" if needed <= limit else "blocks"), why


def open_pass(
    name: str,
    *,
    model: nn.Module,
    layers: Sequence[Layer],
    moments: Iterable[str],
    tokens: Int[Tensor, "sequences length"] | Inputs,
    labels: str,
    folder: Path,
    progress: Progress = quiet,
) -> AbstractPass:
    """The pass of a name, for gathering these moments of these layers.

    A model that is no chain of blocks, or reads something else than tokens, is run whole where the
    choice is ours. Raises `ModelError` where it was to be run by blocks.
    """
    check_pass(name)
    whole = WholeModel(model=model, tokens=tokens, labels=labels, progress=progress)
    if isinstance(tokens, Inputs) or not predicts_next_token(model):
        if name == "blocks":
            raise ModelError(
                f"{type(model).__name__} predicts no next token of text alone, and only such "
                "models are run by blocks. Run it whole."
            )
        return whole
    blocks = BlockWise(model=model, tokens=tokens, labels=labels, folder=folder, progress=progress)
    chosen = name
    if name == "auto":
        chosen, why = choose_pass(
            model_bytes=sum(parameter.nbytes for parameter in model.parameters()),
            activation_bytes=_activation_bytes(model, layers, tokens.shape[1]),
            statistics_bytes=statistics_bytes(layers, moments, len(tokens)),
            memory_bytes=total_memory_bytes(),
        )
        log.info("The model is run %s: %s.", chosen, why)
    if chosen == "blocks":
        try:
            blocks.check(layers)
        except ModelError as error:
            if name == "blocks":
                raise
            log.warning("The whole model is run at once, though memory is short. %s", error)
            chosen = "whole"
    return blocks if chosen == "blocks" else whole


def _activation_bytes(model: nn.Module, layers: Iterable[Layer], length: int) -> int:
    """About what one sequence's inputs and outputs of all layers take, and as much between them."""
    total = 0
    for layer in layers:
        *_, rows, columns = layer.shape
        total += 2 * length * (rows + columns) * weight_of(model, layer).itemsize
    return total


def statistics_bytes(layers: Iterable[Layer], moments: Iterable[str], sequences: int) -> int:
    """What the moments of layers take over so many sequences, in memory as on disk."""
    names, total = tuple(moments), 0
    with torch.device("meta"):  # shapes alone
        for layer in layers:
            for name in names:
                tensors = MOMENTS[name].zeros(layer, sequences)
                total += sum(tensor.nbytes for tensor in tensors.values())
    return total
