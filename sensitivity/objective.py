"""What is differentiated, so that its squared gradients say what an error does to the KL."""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.models import Inputs, Outputs, Says, read_outputs

LABELS = ("data", "sampled")
"""The next token of the data (empirical Fisher), or one drawn from the model (true Fisher)."""


def objective(
    model: nn.Module,
    inputs: Inputs | Int[Tensor, "sequences length"],
    *,
    labels: str = "data",
) -> Float[Tensor, ""]:
    """Run the model, and see `objective_of`."""
    inputs = Inputs.of(inputs)
    return objective_of(read_outputs(model, inputs), inputs, labels=labels)


def objective_of(outputs: Outputs, inputs: Inputs, *, labels: str = "data") -> Float[Tensor, ""]:
    """What is differentiated of a model's outputs, summed over positions, in nats.

    Of next tokens it is their negative log-likelihood: of the data's, or, with `labels` "sampled",
    of labels that are drawn from the model's own distribution. Of any other logits the data holds
    no labels, so they are always drawn. Of hidden states y it is <y, e> / (s sqrt(width)), with e
    drawn from N(0, I) and s^2 the mean square of y: the expectation of its squared gradient is the
    Gauss-Newton matrix of the KL that `bitplan.evaluate` measures of states.

    What is drawn has a seed that the inputs give: the same sequence always draws the same.
    """
    if outputs.says is Says.STATES:
        return _project(outputs.values, inputs)
    if outputs.says is Says.NEXT:
        assert inputs.ids is not None
        return likelihood(outputs.values, inputs.ids, labels=labels)
    return _cross_entropy(outputs.values, _draw(outputs.values.detach(), inputs))


def likelihood(
    logits: Float[Tensor, "sequences length vocabulary"],
    tokens: Int[Tensor, "sequences length"],
    *,
    labels: str = "data",
) -> Float[Tensor, ""]:
    """The negative log-likelihood that logits of next tokens give the labels, summed, in nats."""
    if labels == "sampled":
        return _cross_entropy(logits, _draw(logits.detach(), Inputs.of(tokens)))
    return _cross_entropy(logits[:, :-1], tokens[:, 1:].to(logits.device))


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="sum"
    )


def _project(states: Float[Tensor, "sequences positions width"], inputs: Inputs) -> Tensor:
    noise = torch.randn(states.shape, generator=_generator(inputs)).to(states.device)
    fixed = states.detach().float()
    scale = fixed.square().mean((1, 2), keepdim=True).mul(states.shape[-1]).sqrt()
    return (states.float() * noise / scale).sum()


def _draw(
    logits: Float[Tensor, "sequences positions classes"], inputs: Inputs
) -> Int[Tensor, "sequences positions"]:
    probabilities = logits.float().softmax(-1).flatten(0, 1).cpu()
    if not probabilities.isfinite().all():
        # The loss is not finite: found there.
        return torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
    drawn = torch.multinomial(probabilities, 1, generator=_generator(inputs))
    return drawn.reshape(logits.shape[:2]).to(logits.device)


def _generator(inputs: Inputs) -> torch.Generator:
    digest = hashlib.sha256()
    for _, tensor in sorted(inputs.tensors.items()):
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return torch.Generator().manual_seed(int.from_bytes(digest.digest()[:7], "big"))
