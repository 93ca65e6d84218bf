"""Output-space Fisher: the loss's gradient at a layer's output times the output's change.

A token's change of the loss is g_t' dW x_t, and half of its expected square the increase of KL.
All schemes are judged in one backward pass: with random signs s_t,

    E (sum_t s_t g_t' dW x_t)^2 = sum_t (g_t' dW x_t)^2,     sum_t s_t g_t' dW x_t = <M, dW>,

so the matrix M = sum_t s_t g_t x_t' of a few tokens is made once, and every further scheme costs
one inner product with it.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.memory import room_bytes
from bitplan.models import weight_of
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity.estimators.model_estimator import (
    AbstractModelEstimator,
    Bench,
    Judged,
    Schemes,
    check_some,
    warn_of,
)
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.portions import portions
from bitplan.sensitivity.watch import Seen, by_layer

TOKENS_A_SKETCH = 16
"""Tokens that share one matrix M."""

SCHEMES_AT_ONCE = 8
"""Schemes that are multiplied at a time, empty ones among them: a product's last bits depend on its
shape, and what a scheme costs must not depend on the others that are judged with it."""

SKETCHES_AT_ONCE = 1 << 18
"""Numbers of the matrices M that are held at a time: they stay in a core's cache, and each scheme's
error is read once for all sketches of a sequence."""


@dataclass(frozen=True, kw_only=True)
class OutputFisher(AbstractModelEstimator):
    """1/2T sum_t (g_t' dW x_t)^2, tokens apart (compare ModelOpt's gradient score, element-wise).

    `tokens_a_sketch` share one matrix M: more are quicker, and add noise.
    """

    tokens_a_sketch: int = TOKENS_A_SKETCH

    def judge(self, bench: Bench, schemes: Schemes) -> Iterator[Judged]:
        """Judge the layers in groups whose errors fit into memory."""
        left_out: set[int] = set()

        def size(layer: Layer) -> int:
            itemsize = weight_of(bench.model, layer).itemsize
            return layer.parameters * itemsize * len(schemes[layer])

        for group in bench.through.groups(list(schemes)):
            for part in portions(group, size, room_bytes()):
                yield from self._judge(bench, part, schemes, left_out)

    def squares(
        self, seen: Sequence[Seen], errors: Float[Tensor, "schemes ..."], sequence: int
    ) -> Float[Tensor, "schemes"]:
        """What all calls of one layer in one sequence add to sum_t (g_t' dW x_t)^2."""
        total = torch.zeros(len(errors))
        for one in seen:
            signs = random_signs(len(one.gradients), sequence)
            total += products(one, errors, self.tokens_a_sketch, signs).square().sum(1)
        return total

    def _judge(
        self, bench: Bench, group: Sequence[Layer], schemes: Schemes, left_out: set[int]
    ) -> Iterator[Judged]:
        errors = {layer: errors_of(bench, layer, schemes[layer]) for layer in group}
        # Made before all activations: a small tensor that is made among them, and kept, splits the
        # room that they leave, and memory grows with every sequence.
        sums = {layer: torch.zeros(len(schemes[layer]), len(bench.tokens)) for layer in group}
        usable = []
        with closing(bench.through.run(group)) as run:
            for sequence, seen in run:
                if seen is None:
                    if sequence not in left_out:
                        warn_of(sequence)
                    left_out.add(sequence)
                    continue
                usable.append(sequence)
                calls = by_layer(seen)
                seen.clear()  # what a layer saw is given back when it is judged
                for layer in group:
                    found = self.squares(calls.pop(layer.name, []), errors[layer], sequence)
                    sums[layer][:, sequence] = found
        check_some(usable)
        for layer in group:
            # Half of the sum over tokens, by token.
            by_sequence = sums[layer][:, usable].double() / (2 * bench.through.tokens_each)
            losses = [
                Losses(loss=row.mean().item(), by_sequence=row.numpy()) for row in by_sequence
            ]
            yield layer, dict(zip(schemes[layer], losses, strict=True))


@dataclass(frozen=True, kw_only=True)
class KlFisher(OutputFisher):
    """1/2T E <grad, dW>^2, with the gradient of whole sequences under labels the model draws.

    The Fisher information itself along dW, correlations between tokens and between outputs
    included, and no label of the data's (Martens, 2020, section 5). Unbiased, and noisy: each
    sequence is one sample.
    """

    labels: ClassVar[str] = "sampled"

    def squares(
        self, seen: Sequence[Seen], errors: Float[Tensor, "schemes ..."], sequence: int
    ) -> Float[Tensor, "schemes"]:
        """The square of what all calls add up to."""
        total = torch.zeros(len(errors))
        for one in seen:
            ones = torch.ones(len(one.gradients))
            total += products(one, errors, len(one.gradients), ones).sum(1)
        return total.square()


def products(
    one: Seen, errors: Float[Tensor, "schemes ..."], tokens: int, signs: Float[Tensor, "tokens"]
) -> Float[Tensor, "schemes sketches"]:
    """<M, dW> of every scheme, M = sum_t s_t g_t x_t' over so many tokens at a time.

    In float32 throughout, the errors a block at a time: M is never rounded.
    """
    gradients = one.gradients.float() * signs[:, None]
    if one.is_lookup:
        return (errors[:, one.inputs].float() * gradients).sum(-1)
    if one.expert is not None:
        errors = errors[:, one.expert]
    filled = (0, 0, 0, -len(gradients) % tokens)
    inputs, gradients = (
        torch.nn.functional.pad(part, filled).unflatten(0, (-1, tokens))
        for part in (one.inputs.float(), gradients)
    )
    outputs, columns = errors.shape[1:]
    step = max(1, SKETCHES_AT_ONCE // (len(inputs) * columns))
    padded = len(errors) + -len(errors) % SCHEMES_AT_ONCE
    total = torch.zeros(padded, len(inputs))
    for start in range(0, outputs, step):
        rows = slice(start, start + step)
        sketches = (gradients[..., rows].mT @ inputs).flatten(1)
        block = torch.zeros(padded, sketches.shape[1])
        block[: len(errors)] = errors[:, rows].flatten(1)
        for some, products_of in zip(
            block.split(SCHEMES_AT_ONCE), total.split(SCHEMES_AT_ONCE), strict=True
        ):
            products_of += some @ sketches.mT
    return total[: len(errors)]


def errors_of(
    bench: Bench, layer: Layer, schemes: Sequence[Scheme]
) -> Float[Tensor, "schemes *experts out in"]:
    """The error of every scheme, in the layer's own dtype."""
    weight = weight_of(bench.model, layer)
    return differences(bench, layer, schemes, weight, room=len(schemes))


def differences(
    bench: Bench, layer: Layer, schemes: Sequence[Scheme], origin: Tensor, *, room: int
) -> Float[Tensor, "room *experts out in"]:
    """What lies between `origin` and the weight in every scheme; the rest of the room is empty."""
    found = torch.empty(room, *layer.shape, dtype=origin.dtype)
    for index, scheme in enumerate(schemes):
        found[index] = bench.decode(layer, scheme).float().sub_(origin.float())
    return found


def random_signs(tokens: int, sequence: int) -> Float[Tensor, "tokens"]:
    """Signs of the tokens of a sequence: always the same ones."""
    generator = torch.Generator().manual_seed(sequence)
    return torch.randint(0, 2, (tokens,), generator=generator).float().mul_(2).sub_(1)
