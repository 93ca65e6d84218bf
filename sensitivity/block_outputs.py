"""How much an error at each position of each block's output matters: the loss's gradient there."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitplan.models import Inputs, eager_experts, wide_matmuls
from bitplan.models.chain import find_chain
from bitplan.progress import Progress, quiet, track
from bitplan.sensitivity.objective import objective


def block_outputs(
    model: nn.Module, inputs: Inputs, *, labels: str = "data", progress: Progress = quiet
) -> Float[Tensor, "blocks sequences *positions"]:
    """The squared gradient of `objective` at each block's output, a mean over its width.

    What an error there costs is half of that times its square, by which H weighs tokens too. One
    pass forward and back for each sequence; the weights themselves take no gradients. Raises
    `ModelError` for a model that is no chain of blocks.
    """
    found = []
    with eager_experts(model), wide_matmuls(), torch.enable_grad():
        chain = find_chain(model, lambda: objective(model, inputs[:1], labels=labels))
        for sequence in track(range(len(inputs)), "weigh tokens", progress):
            one = inputs[sequence : sequence + 1]

            def run(given: Inputs = one) -> Tensor:
                return objective(model, given, labels=labels)

            hidden, calls = chain.begin(run)
            hidden, outputs = hidden.requires_grad_(), []
            for index, call in enumerate(calls):
                hidden = chain.block(index, hidden, call)
                outputs.append(hidden)
            slopes = torch.autograd.grad(chain.end(run, hidden), outputs)
            found.append(torch.stack([slope[0].float().square().mean(-1) for slope in slopes]))
    return torch.stack(found, dim=1)
