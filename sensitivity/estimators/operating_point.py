"""What a change of scheme is worth where the model stands: the gradient of the KL at a plan.

With all layers at some plan's schemes, KL(reference || model) has a gradient. To second order, a
layer that moves from its rendered weight W_p to another W_s changes it by

    <grad, W_s - W_p> + 1/2 E <score, W_s - W_p>^2,

with the Fisher information there, token by token, for the second derivative (a Taylor expansion as
in Optimal Brain Damage, LeCun et al., 1990, with the gradient kept: a compressed model is at no
minimum).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.errors import ModelError
from bitplan.models import eager_experts, next_token_logits, weight_of
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity.estimators.model_estimator import (
    AbstractModelEstimator,
    Bench,
    Judged,
    Schemes,
    check_some,
    is_usable,
)
from bitplan.sensitivity.estimators.output_fisher import (
    TOKENS_A_SKETCH,
    differences,
    products,
    random_signs,
    room_bytes,
)
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.objective import likelihood
from bitplan.sensitivity.portions import portions
from bitplan.sensitivity.watch import Seen, watch


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
                with _at(bench, plan, originals):
                    _add_effects(bench, index, reference, changes, effects)
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
    """The model's own log probabilities on a sequence; None where they are not finite."""
    if index in left_out:
        return None
    logits = next_token_logits(bench.model, bench.text[index : index + 1])
    if not is_usable(logits, index):
        left_out.add(index)
        return None
    return logits.float().log_softmax(-1)


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


def _add_effects(
    bench: Bench,
    index: int,
    reference: Tensor,
    changes: Mapping[Layer, Tensor],
    effects: Mapping[Layer, Float[Tensor, "sequences changes"]],
) -> None:
    """Add what each change does to the KL on one sequence, nats per token, to second order."""
    seen: list[Seen] = []
    tokens = bench.text[index : index + 1]
    with torch.enable_grad(), eager_experts(bench.model):
        with watch(bench.model, list(changes), seen.append):
            logits = next_token_logits(bench.model, tokens)
            found = logits.float().log_softmax(-1)
            kl = torch.nn.functional.kl_div(found, reference, reduction="sum", log_target=True)
            if not kl.isfinite():
                raise ModelError(
                    f"At the operating point the model's logits on sequence {index} are not "
                    "finite. Choose a plan of more bits."
                )
            kl.backward(retain_graph=True)
            for one in seen:
                ones = torch.ones(len(one.gradients))
                change = changes[one.layer]
                slopes = products(one, change, len(ones), ones).sum(1)
                effects[one.layer][index] += slopes / tokens.shape[1]
            seen.clear()
            likelihood(logits, tokens, labels="sampled").backward()
        for one in seen:
            signs = random_signs(len(one.gradients), index)
            squares = products(one, changes[one.layer], TOKENS_A_SKETCH, signs).square().sum(1)
            effects[one.layer][index] += squares / (2 * tokens.shape[1])
