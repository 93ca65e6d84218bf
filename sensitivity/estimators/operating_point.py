"""What a change of scheme is worth where the model stands: the gradient of the KL at a plan.

See `changes` for how that is found.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.memory import room_bytes
from bitplan.models import Inputs, next_token_logits, weight_of
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity.estimators.changes import effects_of
from bitplan.sensitivity.estimators.model_estimator import (
    AbstractModelEstimator,
    Bench,
    Judged,
    Schemes,
    check_some,
    is_usable,
)
from bitplan.sensitivity.estimators.output_fisher import differences
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.portions import portions


@dataclass(frozen=True, kw_only=True)
class OperatingPoint(AbstractModelEstimator):
    """Change of the KL from a plan, as a loss: zero for what the layer had before compression.

    `plan` gives each layer's scheme; without it every layer is at the middle of its schemes by
    bits. A change for the better than the original weight counts as no loss.
    """

    jointly: ClassVar[bool] = True
    plan: Mapping[str, Scheme] = field(default_factory=dict)

    def judge(self, bench: Bench, schemes: Schemes) -> Iterator[Judged]:
        """Judge the layers in groups whose changes fit into memory, all layers at the plan."""
        plan = {
            layer: self.plan.get(layer.name, _middle(legal)) for layer, legal in schemes.items()
        }
        originals = {layer: weight_of(bench.model, layer).clone() for layer in plan}
        left_out: set[int] = set()

        def size(layer: Layer) -> int:
            return originals[layer].nbytes * (len(schemes[layer]) + 1)

        for part in portions(list(schemes), size, room_bytes()):
            changes = {layer: _changes(bench, layer, schemes[layer], plan[layer]) for layer in part}
            # Made before all activations, as the sums of `output_fisher` are.
            effects = {
                layer: torch.zeros(len(bench.text), len(change))
                for layer, change in changes.items()
            }
            usable = []
            for index in range(len(bench.text)):
                bench.progress("operating point", index, len(bench.text))
                reference = _reference(bench, index, left_out)
                if reference is None:
                    continue
                usable.append(index)
                inputs = Inputs.of(bench.text[index : index + 1])
                with _at(bench, plan, originals):
                    found = effects_of(bench.model, inputs, reference, changes, sequence=index)
                for layer, effect in found.items():
                    effects[layer][index] = effect
            check_some(usable)
            bench.progress("operating point", len(bench.text), len(bench.text))
            for layer in part:
                yield layer, _losses(effects[layer][usable], schemes[layer])


def _middle(legal: Sequence[Scheme]) -> Scheme:
    return sorted(legal, key=lambda scheme: scheme.bits)[len(legal) // 2]


def _changes(
    bench: Bench, layer: Layer, legal: Sequence[Scheme], at: Scheme
) -> Float[Tensor, "changes *experts out in"]:
    """From the plan's weight to that of each scheme and, last, to the original."""
    here, weight = bench.decode(layer, at), weight_of(bench.model, layer)
    found = differences(bench, layer, legal, here.to(weight.dtype), room=len(legal) + 1)
    found[-1] = weight.float() - here.float()
    return found


def _losses(
    effects: Float[Tensor, "sequences changes"], legal: Sequence[Scheme]
) -> dict[Scheme, Losses]:
    """What each change does, less what going back to the original does."""
    found = effects.double().numpy()
    against_original = found[:, :-1] - found[:, -1:]
    losses = {}
    for index, scheme in enumerate(legal):
        by_sequence = against_original[:, index]
        loss = max(0.0, float(by_sequence.mean()))
        losses[scheme] = Losses(loss=loss, by_sequence=by_sequence)
    return losses


@torch.no_grad()
def _reference(
    bench: Bench, index: int, left_out: set[int]
) -> Float[Tensor, "1 length vocabulary"] | None:
    """The model's own logits on a sequence; None where they are not finite."""
    if index in left_out:
        return None
    logits = next_token_logits(bench.model, bench.text[index : index + 1])
    if not is_usable(logits, index):
        left_out.add(index)
        return None
    return logits


@contextmanager
@torch.no_grad()
def _at(
    bench: Bench, plan: Mapping[Layer, Scheme], originals: Mapping[Layer, Tensor]
) -> Iterator[None]:
    """The model under a plan; its own weights come back at the end."""
    try:
        for layer, scheme in plan.items():
            weight_of(bench.model, layer).copy_(bench.decode(layer, scheme))
        yield
    finally:
        for layer, original in originals.items():
            weight_of(bench.model, layer).copy_(original)
