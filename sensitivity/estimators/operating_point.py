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

from bitplan.models import Inputs, next_token_logits, weight_of
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity.estimators.changes import effects_of, from_plan
from bitplan.sensitivity.estimators.model_estimator import (
    AbstractModelEstimator,
    Bench,
    Judged,
    Schemes,
    check_some,
    is_usable,
)
from bitplan.sensitivity.estimators.output_fisher import errors_of
from bitplan.sensitivity.losses import Losses


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
        changes = {layer: from_plan(errors[layer], schemes[layer], plan[layer]) for layer in plan}
        found: dict[Layer, list[Tensor]] = {layer: [] for layer in plan}
        with _at(bench, plan):
            for index, reference in references.items():
                bench.progress("operating point", index, len(bench.text))
                inputs = Inputs.of(bench.text[index : index + 1])
                effects = effects_of(bench.model, inputs, reference, changes, sequence=index)
                for layer, effect in effects.items():
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


@torch.no_grad()
def _references(bench: Bench) -> dict[int, Float[Tensor, "1 length vocabulary"]]:
    """The model's own logits, of all sequences where they are finite."""
    references = {}
    for index in range(len(bench.text)):
        logits = next_token_logits(bench.model, bench.text[index : index + 1])
        if is_usable(logits, index):
            references[index] = logits
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
