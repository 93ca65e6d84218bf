"""KL to the reference model and perplexity, token by token, on tokens that both read."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import ModelError, OutputError
from bitplan.models import next_token_logits
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
    def is_finite(self) -> bool:
        """Whether the model gave finite numbers throughout."""
        return bool(np.isfinite(self.kl).all() and np.isfinite(self.nll).all())

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood."""
        return _perplexity(self.nll)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the reference model says of some tokens: its logits, on disk as they came out.

    `stored` is mapped from a file without a name, which goes when this goes or the process ends.
    """

    tokens: Int[Tensor, "sequences length"]
    stored: np.ndarray  # [bytes] uint8
    vocabulary: int
    dtype: torch.dtype
    nll: np.ndarray  # [sequences]

    @property
    def perplexity(self) -> float:
        """Of the reference model."""
        return _perplexity(self.nll)

    def logits(self) -> Float[Tensor, "sequences length vocabulary"]:
        """Mapped from the file."""
        shape = (*self.tokens.shape, self.vocabulary)
        return torch.from_numpy(self.stored).view(self.dtype).reshape(shape)


@torch.no_grad()
def make_reference(
    model: nn.Module,
    tokens: Int[Tensor, "sequences length"],
    folder: Path | None = None,
    *,
    progress: Progress = quiet,
) -> Reference:
    """Keep the model's logits over `tokens`, on the disk of `folder` (None: of temporary files).

    Raises `ModelError` for logits that are not finite, and `OutputError` for a full disk.
    """
    nll, vocabulary, dtype = [], 0, torch.float32
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for batch, logits in _forward(model, tokens, progress, "reference"):
                vocabulary, dtype = logits.shape[-1], logits.dtype
                logits.contiguous().view(torch.uint8).numpy().tofile(file)
                nll += [_nll(row, ids) for row, ids in zip(logits, batch, strict=True)]
            file.flush()
            stored = np.memmap(file, np.uint8, mode="c")
    except OSError as error:
        raise OutputError(
            f"Cannot keep the reference's logits in {folder or tempfile.gettempdir()}: "
            f"{error.strerror or error}. Free some space, or judge on fewer tokens."
        ) from error
    if not np.isfinite(nll).all():
        raise ModelError(
            f"{type(model).__name__} gives logits that are not finite. Check its weights, or load "
            "it in a wider dtype: bfloat16 in place of float16, or float32."
        )
    return Reference(
        tokens=tokens, stored=stored, vocabulary=vocabulary, dtype=dtype, nll=np.array(nll)
    )


@torch.no_grad()
def compare(model: nn.Module, reference: Reference, *, progress: Progress = quiet) -> Divergence:
    """How far the model is from the reference, over the reference's tokens.

    Raises `ModelError` for a model of another vocabulary.
    """
    kl, nll, told = [], [], reference.logits()
    for batch, logits in _forward(model, reference.tokens, progress, "evaluate"):
        if logits.shape[-1] != reference.vocabulary:
            raise ModelError(
                f"The model has a vocabulary of {logits.shape[-1]:,}, but its reference one of "
                f"{reference.vocabulary:,}. Give the model that it was made from."
            )
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
        yield batch, next_token_logits(model, batch)
    progress(stage, len(batches), len(batches))


def _perplexity(nll: np.ndarray) -> float:
    return float(np.exp(np.minimum(nll.mean(), 700.0)))


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
