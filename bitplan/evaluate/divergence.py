"""KL to the reference model and perplexity, token by token, on what both read."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import ModelError, OutputError
from bitplan.models import Inputs, Outputs, Says, logits_kl, read_outputs
from bitplan.models.outputs import positions_at_once
from bitplan.progress import Progress, quiet

BATCH_TOKENS = 1024
"""Tokens that go through the model at once; an image or a clip goes alone."""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """By sequence: mean KL(reference || model) and mean negative log-likelihood, nats a token.

    A token is a position of the model's output (`bitplan.models.Outputs`); of a model that gives
    hidden states, the KL is that of `gaussian_kl`. `nll` is None where no next token is predicted.
    """

    kl: np.ndarray  # [sequences]
    nll: np.ndarray | None  # [sequences]

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
        return all(np.isfinite(part).all() for part in (self.kl, self.nll) if part is not None)

    @property
    def perplexity(self) -> float | None:
        """exp of the mean negative log-likelihood, if there is one."""
        return _perplexity(self.nll)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the reference model says of some inputs: its outputs, on disk as they came out.

    `stored` is mapped from a file without a name, which goes when this goes or the process ends.
    """

    inputs: Inputs
    stored: np.ndarray  # [bytes] uint8
    shape: tuple[int, ...]  # sequences, positions, width
    dtype: torch.dtype
    says: Says
    nll: np.ndarray | None  # [sequences]

    @property
    def perplexity(self) -> float | None:
        """Of the reference model, if it predicts next tokens."""
        return _perplexity(self.nll)

    def part(self, sequences: Sequence[int]) -> "Reference":
        """Of some sequences, in memory: it can be sent to another process."""
        chosen = list(sequences)
        values = self.values()[chosen]
        return Reference(
            inputs=self.inputs[chosen],
            stored=values.view(torch.uint8).flatten().numpy(),
            shape=tuple(values.shape),
            dtype=self.dtype,
            says=self.says,
            nll=None if self.nll is None else self.nll[chosen],
        )

    def values(self) -> Float[Tensor, "sequences positions width"]:
        """Mapped from the file."""
        return torch.from_numpy(self.stored).view(self.dtype).reshape(self.shape)


@torch.no_grad()
def make_reference(
    model: nn.Module,
    inputs: Inputs | Int[Tensor, "sequences length"],
    folder: Path | None = None,
    *,
    progress: Progress = quiet,
) -> Reference:
    """Keep the model's outputs over `inputs`, on the disk of `folder` (None: of temporary files).

    Raises `ModelError` for outputs that are not finite, and `OutputError` for a full disk.
    """
    inputs, nll, outputs = Inputs.of(inputs), [], None
    is_finite = True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for batch, outputs in _forward(model, inputs, progress, "reference"):
                values = outputs.values
                values.contiguous().view(torch.uint8).cpu().numpy().tofile(file)
                nll += _nlls(outputs, batch)
                # A likelihood tells of itself.
                is_finite &= outputs.says is Says.NEXT or bool(values.isfinite().all())
            file.flush()
            stored = np.memmap(file, np.uint8, mode="c")
    except OSError as error:
        raise OutputError(
            f"Cannot keep the reference's outputs in {folder or tempfile.gettempdir()}: "
            f"{error.strerror or error}. Free some space, or judge on fewer tokens."
        ) from error
    assert outputs is not None
    if not (is_finite and np.isfinite(nll).all()):
        raise ModelError(
            f"{type(model).__name__} gives outputs that are not finite. Check its weights, or load "
            "it in a wider dtype: bfloat16 in place of float16, or float32."
        )
    return Reference(
        inputs=inputs,
        stored=stored,
        shape=(len(inputs), *outputs.values.shape[1:]),
        dtype=outputs.values.dtype,
        says=outputs.says,
        nll=np.array(nll) if nll else None,
    )


@torch.no_grad()
def compare(
    model: nn.Module,
    reference: Reference,
    *,
    sequences: Sequence[int] | None = None,
    progress: Progress = quiet,
) -> Divergence:
    """How far the model is from the reference, over the reference's inputs, or some of them.

    Raises `ModelError` for a model of another vocabulary, or that says something else.
    """
    kl, nll, told = [], [], reference.values()
    measure = gaussian_kl if reference.says is Says.STATES else logits_kl
    chosen = list(range(len(reference.inputs)) if sequences is None else sequences)
    inputs = reference.inputs if sequences is None else reference.inputs[chosen]
    for batch, outputs in _forward(model, inputs, progress, "evaluate"):
        _check_alike(outputs, reference)
        kl += [measure(told[chosen[len(kl) + i]], row) for i, row in enumerate(outputs.values)]
        nll += _nlls(outputs, batch)
    return Divergence(kl=np.array(kl), nll=np.array(nll) if nll else None)


def gaussian_kl(
    reference: Float[Tensor, "positions width"], states: Float[Tensor, "positions width"]
) -> float:
    """KL of hidden states in nats per token, each state read as the mean of a Gaussian.

    With s^2 the mean square of the reference's states in the sequence, N(y, width s^2 I) of both
    models are 1/2 |dy|^2 / (width s^2) nats apart: half of the mean squared error over the mean
    square, however wide a state is. An error as large as the states themselves is half a nat.
    """
    reference = reference.float().to(states.device)
    error = (states.float() - reference).square().mean()
    return (error / (2 * reference.square().mean()).clamp_min(1e-30)).item()


def batches(inputs: Inputs) -> list[slice]:
    """The sequences that go through a model at once."""
    each = BATCH_TOKENS if inputs.ids is None else inputs.tokens_each
    step = max(1, BATCH_TOKENS // each)
    return [slice(start, start + step) for start in range(0, len(inputs), step)]


def _forward(
    model: nn.Module, inputs: Inputs, progress: Progress, stage: str
) -> Iterator[tuple[Inputs, Outputs]]:
    parts = batches(inputs)
    for done, part in enumerate(parts):
        progress(stage, done, len(parts))
        batch = inputs[part]
        yield batch, read_outputs(model, batch)
    progress(stage, len(parts), len(parts))


def _check_alike(outputs: Outputs, reference: Reference) -> None:
    if outputs.says is not reference.says:
        raise ModelError(
            f"The model gives {outputs.says}, but its reference {reference.says}. Give the model "
            "that it was made from."
        )
    *positions, width = outputs.values.shape[1:]
    if (*positions, width) != reference.shape[1:]:
        what = "states" if outputs.says is Says.STATES else "a vocabulary"
        raise ModelError(
            f"The model has {what} of {width:,}, but its reference one of "
            f"{reference.shape[-1]:,}. Give the model that it was made from."
        )


def _perplexity(nll: np.ndarray | None) -> float | None:
    return None if nll is None else float(np.exp(np.minimum(nll.mean(), 700.0)))


def _nlls(outputs: Outputs, batch: Inputs) -> list[float]:
    if outputs.says is not Says.NEXT or batch.ids is None:
        return []
    return [_nll(row, ids) for row, ids in zip(outputs.values, batch.ids, strict=True)]


def _nll(logits: Float[Tensor, "length vocabulary"], tokens: Int[Tensor, "length"]) -> float:
    total, some = 0.0, positions_at_once(logits)
    for part, targets in zip(logits[:-1].split(some), tokens[1:].split(some), strict=True):
        total += torch.nn.functional.cross_entropy(part.float(), targets, reduction="sum").item()
    return total / (len(tokens) - 1)
