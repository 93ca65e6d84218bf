"""How much a block changes what passes through it: its score times the relative weight error.

Layer input modification, the first score of Layer-Wise Quantization (Dumitru et al., 2024):
minus the cosine of a block's input and output, here 1 - cosine so that it is a factor. Forward
passes alone; no unit of loss.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bitplan.models import Inputs, block_of, blocks_of, read_outputs, weight_of
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
class BlockInfluence(AbstractModelEstimator):
    """(1 - cos(input, output)) |dW|^2 / |W|^2; layers outside the blocks count as the whole model.

    The cosine is a mean over tokens; the model's input is the first block's, its output the last's.
    """

    def judge(self, bench: Bench, schemes: Schemes) -> Iterator[Judged]:
        """Score the blocks, then judge every layer."""
        scores = _scores(bench)
        for layer, legal in schemes.items():
            weight = weight_of(bench.model, layer).float()
            norm = weight.square().sum(dtype=torch.float64).item()
            block = block_of(bench.model, layer)
            score = scores[-1 if block is None else block]
            losses = {}
            for scheme in legal:
                error = bench.decode(layer, scheme).float().sub_(weight)
                relative = error.square().sum(dtype=torch.float64).item() / (norm or 1.0)
                by_sequence = score * relative
                losses[scheme] = Losses(loss=float(by_sequence.mean()), by_sequence=by_sequence)
            yield layer, losses


@torch.no_grad()
def _scores(bench: Bench) -> np.ndarray:  # [blocks + 1, sequences]; the last is the whole model's
    blocks = blocks_of(bench.model)
    scores, usable = np.zeros((len(blocks) + 1, len(bench.tokens))), []
    for index in range(len(bench.tokens)):
        bench.progress("influence", index, len(bench.tokens))
        states: list[tuple[Tensor, Tensor]] = []
        with ExitStack() as stack:
            for block in blocks:
                hook = block.register_forward_hook(_keep(states), with_kwargs=True)
                stack.callback(hook.remove)
            outputs = read_outputs(bench.model, Inputs.of(bench.tokens)[index : index + 1])
        if not is_usable(outputs.values, index):
            continue
        usable.append(index)
        for block, (before, after) in enumerate(states):
            scores[block, index] = _change(before, after)
        if states:
            scores[-1, index] = _change(states[0][0], states[-1][1])
    bench.progress("influence", len(bench.tokens), len(bench.tokens))
    check_some(usable)
    return scores[:, usable]


def _keep(states: list[tuple[Tensor, Tensor]]):
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor | tuple) -> None:
        before = (*args, *kwargs.values())[0]
        after = output if isinstance(output, Tensor) else output[0]
        states.append((before.detach(), after.detach()))

    return hook


def _change(before: Tensor, after: Tensor) -> float:
    cosine = torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
    return 1 - cosine.mean().item()
