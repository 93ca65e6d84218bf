"""What is differentiated: the negative log-likelihood of each sequence, in nats, summed."""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.models import next_token_logits

LABELS = ("data", "sampled")
"""The next token of the data (empirical Fisher), or one drawn from the model (true Fisher)."""


def objective(
    model: nn.Module,
    tokens: Int[Tensor, "sequences length"],
    *,
    labels: str = "data",
) -> Float[Tensor, ""]:
    """The sequences' negative log-likelihood, summed over tokens, in nats.

    With `labels` "sampled" the labels are drawn from the model's own distribution, by a seed that
    the tokens give: the same sequence always gets the same labels.
    """
    return likelihood(next_token_logits(model, tokens), tokens, labels=labels)


def likelihood(
    logits: Float[Tensor, "sequences length vocabulary"],
    tokens: Int[Tensor, "sequences length"],
    *,
    labels: str = "data",
) -> Float[Tensor, ""]:
    """The negative log-likelihood that the logits give the labels, summed, in nats."""
    if labels == "sampled":
        targets = _draw(logits.detach(), tokens)
    else:
        logits, targets = logits[:, :-1], tokens[:, 1:].to(logits.device)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="sum"
    )


def _draw(logits: Tensor, tokens: Tensor) -> Int[Tensor, "sequences length"]:
    digest = hashlib.sha256(tokens.cpu().contiguous().numpy().tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    probabilities = logits.float().softmax(-1).flatten(0, 1).cpu()
    if not probabilities.isfinite().all():
        return torch.zeros_like(tokens).to(logits.device)  # the loss is not finite: found there
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return drawn.reshape(tokens.shape).to(logits.device)
