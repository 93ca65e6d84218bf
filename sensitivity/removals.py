"""What leaving out a sublayer costs: the KL of the whole model without it.

So large a change is no error that a quadratic form could judge, so it is made, on the model itself:
the weight that writes to the residual stream is set to zero, which makes the others of the sublayer
matter no more, and the KL from the model as it was is measured. Blocks before it return what they
returned before. Source: Sieberling et al. 2024 (EvoPress, arXiv 2410.14649), which drops attention
and feed-forward modules by the KL of the model; Men et al. 2024 (ShortGPT) drop whole blocks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models import (
    block_of,
    blocks_of,
    logits_kl,
    next_token_logits,
    recorded,
    replayed,
    weight_of,
)
from bitplan.progress import Progress, quiet
from bitplan.schema import LEFT_OUT, Cost, Layer, Scheme, Sublayer
from bitplan.sensitivity.loss_files import LossFiles
from bitplan.sensitivity.losses import Losses

SEQUENCES = 16
"""Calibration sequences that are measured on, the first of them: the losses are large."""

_NONE = Scheme.parse(LEFT_OUT)


@torch.no_grad()
def removal_costs(
    model: nn.Module,
    sublayers: Sequence[Sublayer],
    layers: Mapping[str, Layer],
    tokens: Int[Tensor, "sequences length"],
    folder: Path,
    *,
    progress: Progress = quiet,
) -> dict[str, Cost]:
    """The cost of `none` for every layer of the sublayers, by layer name.

    The last layer of each has all of its sublayer's loss. What was found is kept in `folder`
    sequence by sequence. Raises `ModelError` where the model's outputs are not finite.
    """
    found, tokens = LossFiles(folder), tokens[:SEQUENCES]
    lasts = [layers[sublayer.layers[-1]] for sublayer in sublayers]
    for index in range(len(tokens)):
        progress("sublayers", index, len(tokens))
        missing = [layer for layer in lasts if len(found.of(layer, _NONE)) <= index]
        losses = _without_each(model, missing, tokens[index : index + 1])
        for layer, loss in zip(missing, losses, strict=True):
            found.add(layer, _NONE, index, [loss])
        found.write()
    progress("sublayers", len(tokens), len(tokens))
    nothing = Cost(scheme=_NONE, bytes=0, loss=0.0, standard_error=0.0)
    costs = {name: nothing for sublayer in sublayers for name in sublayer.layers}
    for layer in lasts:
        by_sequence = np.array(found.of(layer, _NONE)[: len(tokens)])
        losses = Losses(loss=float(by_sequence.mean()), by_sequence=by_sequence)
        costs[layer.name] = Cost(
            scheme=_NONE, bytes=0, loss=losses.loss, standard_error=losses.standard_error
        )
    return costs


def _without_each(
    model: nn.Module, layers: Sequence[Layer], tokens: Int[Tensor, "1 length"]
) -> list[float]:
    """The KL on a sequence with the weight of each layer zero in turn, nats per token."""
    if not layers:
        return []
    blocks = blocks_of(model)
    with recorded(blocks) as outputs:
        reference = next_token_logits(model, tokens)[0]
    losses = []
    for layer in layers:
        first = block_of(model, layer) or 0
        unchanged = {block: output for block, output in outputs.items() if block < first}
        losses.append(_without(model, layer, tokens, blocks, unchanged, reference))
    return losses


def _without(
    model: nn.Module,
    layer: Layer,
    tokens: Int[Tensor, "1 length"],
    blocks: Sequence[nn.Module],
    unchanged: Mapping[int, object],
    reference: Float[Tensor, "positions vocabulary"],
) -> float:
    weight = weight_of(model, layer)
    original = weight.clone()
    try:
        weight.zero_()
        with replayed(blocks, unchanged):
            loss = float(logits_kl(reference, next_token_logits(model, tokens)[0]))
    finally:
        weight.copy_(original)
    if not np.isfinite(loss):
        raise ModelError(
            f"The model's outputs are not finite, with {layer.name} or without it. Check its "
            "weights and the text, or load it in a wider dtype: bfloat16 in place of float16, or "
            "float32."
        )
    # Rounding can make a KL of nothing less than nothing.
    return max(loss, 0.0)
