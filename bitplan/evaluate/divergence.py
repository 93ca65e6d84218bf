"""KL to the reference model and perplexity, token by token, on tokens that both read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.files import replacing
from bitplan.progress import Progress, quiet

BATCH_TOKENS = 1024
"""Tokens that go through the model at once."""

CHUNK = 256
"""Positions whose distributions are compared at once: bounds memory at large vocabularies."""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """By sequence: mean KL(reference || model) and mean negative log-likelihood, nats a token."""

    kl: np.ndarray  # [sequences]
    nll: np.ndarray  # [sequences]

    @property
    def mean(self) -> float:
        """KL in nats per token."""
        return float(self.kl.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean KL, over sequences."""
        count = len(self.kl)
        return float(self.kl.std(ddof=1) / count**0.5) if count > 1 else 0.0

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood."""
        return float(np.exp(np.minimum(self.nll.mean(), 700.0)))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the reference model says of some tokens: its logits, in a file as they came out."""

    tokens: Int[Tensor, "sequences length"]
    path: Path
    vocabulary: int
    dtype: torch.dtype
    nll: np.ndarray  # [sequences]

    @property
    def perplexity(self) -> float:
        """Of the reference model."""
        return float(np.exp(self.nll.mean()))

    def logits(self) -> Tensor:
        """[sequences, length, vocabulary], mapped from the file."""
        shape = (*self.tokens.shape, self.vocabulary)
        size = int(np.prod(shape))
        return torch.from_file(str(self.path), size=size, dtype=self.dtype).reshape(shape)


@torch.no_grad()
def make_reference(
    model: nn.Module,
    tokens: Int[Tensor, "sequences length"],
    path: Path,
    *,
    progress: Progress = quiet,
) -> Reference:
    """Write the model's logits over `tokens` to the file `path`."""
    nll, vocabulary, dtype = [], 0, torch.float32
    with replacing(path) as temporary, temporary.open("wb") as file:
        for batch, logits in _forward(model, tokens, progress, "reference"):
            vocabulary, dtype = logits.shape[-1], logits.dtype
            file.write(logits.contiguous().view(torch.uint8).numpy())
            nll += [_nll(row, ids) for row, ids in zip(logits, batch, strict=True)]
    return Reference(
        tokens=tokens, path=path, vocabulary=vocabulary, dtype=dtype, nll=np.array(nll)
    )


@torch.no_grad()
def compare(model: nn.Module, reference: Reference, *, progress: Progress = quiet) -> Divergence:
    """How far the model is from the reference, over the reference's tokens."""
    kl, nll, told = [], [], reference.logits()
    for batch, logits in _forward(model, reference.tokens, progress, "evaluate"):
        for row, ids in zip(logits, batch, strict=True):
            kl.append(_kl(told[len(kl)], row))
            nll.append(_nll(row, ids))
    return Divergence(kl=np.array(kl), nll=np.array(nll))


def _forward(
    model: nn.Module, tokens: Tensor, progress: Progress, stage: str
) -> Iterator[tuple[Tensor, Tensor]]:
    batches = tokens.split(max(1, BATCH_TOKENS // tokens.shape[1]))
    for done, batch in enumerate(batches):
        progress(stage, done, len(batches))
        logits = getattr(model(input_ids=batch, use_cache=False), "logits", None)
        if logits is None or logits.dim() != 3:
            raise ModelError(
                f"{type(model).__name__} gives no next-token logits, so its KL cannot be measured. "
                "Load it with a language-modelling head."
            )
        yield batch, logits
    progress(stage, len(batches), len(batches))


def _kl(
    reference: Float[Tensor, "length vocabulary"], logits: Float[Tensor, "length vocabulary"]
) -> float:
    total = 0.0
    for ours, theirs in zip(logits.split(CHUNK), reference.split(CHUNK), strict=True):
        log_q, log_p = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
        total += torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True).item()
    return total / len(logits)


def _nll(logits: Float[Tensor, "length vocabulary"], tokens: Int[Tensor, "length"]) -> float:
    total = 0.0
    for part, targets in zip(logits[:-1].split(CHUNK), tokens[1:].split(CHUNK), strict=True):
        total += torch.nn.functional.cross_entropy(part.float(), targets, reduction="sum").item()
    return total / (len(tokens) - 1)
