"""The measured KL of single swaps: the slow truth.

One layer at a time takes its rendered weight, all others stay as they are, and the KL from the
model as it was is measured. Blocks before the changed one return what they returned before: on
average half of the model is computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitplan.models import (
    block_of,
    blocks_of,
    logits_kl,
    next_token_logits,
    recorded,
    replayed,
    weight_of,
)
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity.estimators.model_estimator import (
    AbstractModelEstimator,
    Bench,
    Judged,
    Schemes,
    check_some,
    is_usable,
)
from bitplan.sensitivity.losses import Losses


@dataclass(frozen=True, kw_only=True)
class SingleSwaps(AbstractModelEstimator):
    """KL(model || model with one layer swapped), nats per token.

    Run it in float32: the KL of 5 bits and more is below the noise of bfloat16 arithmetic. What
    the blocks return and the logits of all calibration sequences are kept in memory.
    """

    def judge(self, bench: Bench, schemes: Schemes) -> Iterator[Judged]:
        """Swap and measure, layer after layer; progress counts sequences."""
        each = len(bench.text)
        total = each * (1 + sum(map(len, schemes.values())))
        memory = _remember(bench, total)
        done = each
        for layer, legal in schemes.items():
            losses = {}
            for scheme in legal:
                by_sequence = _swap(bench, memory, layer, scheme, done=done, total=total)
                losses[scheme] = Losses(loss=float(by_sequence.mean()), by_sequence=by_sequence)
                done += each
            yield layer, losses
        bench.progress("swaps", total, total)


@dataclass(frozen=True, kw_only=True)
class _Memory:
    """What the model as it was made of one sequence."""

    tokens: Tensor
    outputs: Mapping[int, Any]  # of each block
    logits: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, bench: Bench, index: int) -> "_Memory":
        tokens = bench.text[index : index + 1]
        with recorded(blocks_of(bench.model)) as outputs:
            logits = next_token_logits(bench.model, tokens)[0]
        return cls(tokens=tokens, outputs=outputs, logits=logits)


def _remember(bench: Bench, total: int) -> list[_Memory]:
    """All sequences of which the model makes finite numbers."""
    memory = []
    for index in range(len(bench.text)):
        bench.progress("swaps", index, total)
        one = _Memory.of(bench, index)
        if is_usable(one.logits, index):
            memory.append(one)
    check_some(memory)
    return memory


@torch.no_grad()
def _swap(
    bench: Bench,
    memory: Sequence[_Memory],
    layer: Layer,
    scheme: Scheme,
    *,
    done: int,
    total: int,
) -> np.ndarray:  # [sequences], nats per token
    weight, blocks = weight_of(bench.model, layer), blocks_of(bench.model)
    rendered, original = bench.decode(layer, scheme), weight.clone()
    first = block_of(bench.model, layer) or 0
    try:
        weight.copy_(rendered)
        found = []
        for index, one in enumerate(memory):
            bench.progress("swaps", done + index, total)
            unchanged = {block: out for block, out in one.outputs.items() if block < first}
            with replayed(blocks, unchanged):
                found.append(logits_kl(one.logits, next_token_logits(bench.model, one.tokens)[0]))
    finally:
        weight.copy_(original)
    # Rounding of float32 can make a KL of nothing less than nothing.
    return np.maximum(found, 0.0)
