"""What single changes of a plan do to the KL, from one pass forward and back where it stands.

With all layers at some plan's schemes, KL(reference || model) has a gradient. To second order, a
layer that moves from its rendered weight W_p to another W_s changes it by

    <grad, W_s - W_p> + 1/2 E <score, W_s - W_p>^2,

with the Fisher information there, token by token, for the second derivative (a Taylor expansion as
in Optimal Brain Damage, LeCun et al., 1990, with the gradient kept: a compressed model is at no
minimum). The gradient holds what the errors of all other layers do to this one; the second term
is near what a cost table says of the two errors apart, and takes most of the time.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models import Inputs, eager_experts, read_outputs, total_kl, wide_matmuls
from bitplan.schema import Layer
from bitplan.sensitivity.estimators.output_fisher import TOKENS_A_SKETCH, products, random_signs
from bitplan.sensitivity.objective import objective_of
from bitplan.sensitivity.watch import Seen, watch


def effects_of(
    model: nn.Module,
    inputs: Inputs,
    reference: Float[Tensor, "1 positions width"],
    changes: Mapping[Layer, Float[Tensor, "changes ..."]],
    *,
    sequence: int = 0,
    second_order: bool = True,
) -> dict[Layer, Float[Tensor, "changes"]]:
    """What each change of a weight does to the KL on one sequence, nats per token.

    Args:
        model: its weights as the plan has them.
        inputs: one sequence.
        reference: what the reference model says of it: logits, or hidden states.
        changes: by layer what is added to its weight, a change at a time.
        sequence: its number, which the random signs follow.
        second_order: without it the first term alone.

    Raises:
        ModelError: the outputs at the plan are not finite.
    """
    seen: list[Seen] = []
    effects = {layer: torch.zeros(len(change)) for layer, change in changes.items()}
    with torch.enable_grad(), eager_experts(model), watch(model, list(changes), seen.append):
        with wide_matmuls():
            outputs = read_outputs(model, inputs)
            kl = total_kl(outputs, reference)
            if not kl.isfinite():
                raise ModelError(
                    f"At the operating point the model's logits on sequence {sequence} are not "
                    "finite. Choose a plan of more bits."
                )
            kl.backward(retain_graph=second_order)
        for one in seen:
            ones = torch.ones(len(one.gradients))
            effects[one.layer] += products(one, changes[one.layer], len(ones), ones).sum(1)
        seen.clear()
        if second_order:
            with wide_matmuls():
                objective_of(outputs, inputs, labels="sampled").backward()
        for one in seen:
            signs = random_signs(len(one.gradients), sequence)
            squares = products(one, changes[one.layer], TOKENS_A_SKETCH, signs).square().sum(1)
            effects[one.layer] += squares / 2
    positions = reference.shape[1:-1].numel()
    return {layer: effect / positions for layer, effect in effects.items()}
