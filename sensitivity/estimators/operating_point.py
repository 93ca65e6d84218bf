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
from bitplan.models import eager_experts, next_token_logits, weight_of, wide_matmuls
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
    errors_of,
    products,
    random_signs,
)
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.objective import likelihood
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
        """Put the model at the plan, run it once forward and backward, and put it back."""
        references = _references(bench)
        plan = {
            layer: self.plan.get(layer.name, _middle(legal)) for layer, legal in schemes.items()
        }
        errors = {layer: errors_of(bench, layer, legal) for layer, legal in schemes.items()}
        changes = {layer: _from_plan(errors[layer], schemes[layer], plan[layer]) for layer in plan}
        found: dict[Layer, list[Tensor]] = {layer: [] for layer in plan}
        with _at(bench, plan):
            for index, reference in references.items():
                bench.progress("operating point", index, len(bench.text))
                for layer, effect in _effects(bench, index, reference, changes).items():
                    found[layer].append(effect)
        bench.progress("operating point", len(bench.text), len(bench.text))
        for layer, legal in schemes.items():
            effects = torch.stack(found[layer]).double().numpy()  # [sequences, schemes + 1]
            against_original = effects[:, :-1] - effects[:, -1:]
            losses = {}
            for index, scheme in enumerate(legal):
                by_sequence = against_original[:, index]
                loss = max(0.0, float(by_sequence.mean()))
                losses[scheme] = Losses(loss=loss, by_sequence=by_sequence)
            yield layer, losses


def _middle(legal: Sequence[Scheme]) -> Scheme:
    return sorted(legal, key=lambda scheme: scheme.bits)[len(legal) // 2]


def _from_plan(
    errors: Float[Tensor, "schemes ..."], legal: Sequence[Scheme], at: Scheme
) -> Float[Tensor, "changes ..."]:
    """From the plan's weight to that of each scheme and, last, to the original."""
    here = errors[list(legal).index(at)].clone()
    return torch.cat([errors, torch.zeros_like(here)[None]]).sub_(here)


@torch.no_grad()
def _references(bench: Bench) -> dict[int, Float[Tensor, "1 length vocabulary"]]:
    """The model's own log probabilities, of all sequences where they are finite."""
    references = {}
    for index in range(len(bench.text)):
        logits = next_token_logits(bench.model, bench.text[index : index + 1])
        if is_usable(logits, index):
            references[index] = logits.float().log_softmax(-1)
    check_some(references)
    return references


@contextmanager
@torch.no_grad()
def _at(bench: Bench, plan: Mapping[Layer, Scheme]) -> Iterator[None]:
    """The model under a plan; its own weights come back at the end."""
    originals = {layer: weight_of(bench.model, layer).clone() for layer in plan}
    try:
        for layer, scheme in plan.items():
            weight_of(bench.model, layer).copy_(bench.decode(layer, scheme))
        yield
    finally:
        for layer, original in originals.items():
            weight_of(bench.model, layer).copy_(original)


def _effects(
    bench: Bench, index: int, reference: Tensor, changes: Mapping[Layer, Tensor]
) -> dict[Layer, Float[Tensor, "changes"]]:
    """What each change does to the KL on one sequence, nats per token, to second order."""
    seen: list[Seen] = []
    effects = {layer: torch.zeros(len(change)) for layer, change in changes.items()}
    tokens = bench.text[index : index + 1]
    with torch.enable_grad(), eager_experts(bench.model), wide_matmuls():
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
                effects[one.layer] += products(one, change, len(ones), ones).sum(1)
            seen.clear()
            likelihood(logits, tokens, labels="sampled").backward()
        for one in seen:
            signs = random_signs(len(one.gradients), index)
            squares = products(one, changes[one.layer], TOKENS_A_SKETCH, signs).square().sum(1)
            effects[one.layer] += squares / 2
    return {layer: effect / tokens.shape[1] for layer, effect in effects.items()}
