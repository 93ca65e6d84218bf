"""Three sets of tokens, apart by document: to calibrate, to search, to judge."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.calibration.documents import read_documents
from bitplan.calibration.sample import sample_tokens
from bitplan.errors import CalibrationError
from bitplan.progress import Progress, quiet

SAMPLED = "sampled from the model"
"""How the source of sampled tokens begins: they can be drawn again."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sequences of each set, and their common length in tokens."""

    calibration: int = 32
    search: int = 8
    held_out: int = 16
    length: int = 256

    @property
    def total(self) -> int:
        """Sequences of all three sets."""
        return self.calibration + self.search + self.held_out


@dataclass(frozen=True, kw_only=True)
class TokenSets:
    """Token ids, int64 [sequences, length], and where they came from."""

    calibration: Int[Tensor, "calibration length"]
    search: Int[Tensor, "search length"]
    held_out: Int[Tensor, "held_out length"]
    source: str


Calibration = str | Path | Sequence[str] | Tensor | TokenSets | None
"""A text or JSONL file, documents, tokens [sequences, length], ready sets, or None: sample."""


def prepare(
    calibration: Calibration,
    *,
    model: nn.Module,
    tokenizer: Any = None,
    sizes: Sizes = Sizes(),
    seed: int = 0,
    progress: Progress = quiet,
) -> TokenSets:
    """Token sets from whatever the caller gave.

    Documents are shuffled with `seed`; the first half calibrates, the second half is searched and
    judged on. Where there is too little text the sets shrink in proportion. Raises
    `CalibrationError` when that leaves a set without a sequence, or tokens exceed the vocabulary.
    """
    if isinstance(calibration, TokenSets):
        return calibration
    if calibration is None:
        tokens = sample_tokens(model, sizes.total, sizes.length, seed=seed, progress=progress)
        return _cut(tokens, sizes, f"{SAMPLED}, seed {seed}")
    if isinstance(calibration, Tensor):
        tokens = _checked(calibration, model)
        return _cut(tokens, sizes, f"tokens {list(tokens.shape)}")
    if tokenizer is None:
        raise CalibrationError(
            "Text needs a tokenizer, and this model came without one. Give tokenizer=, or tokens."
        )
    documents = read_documents(calibration)
    source = f"{Path(calibration).name}, " if isinstance(calibration, str | Path) else ""
    sets = _tokenize_apart(documents, tokenizer, sizes, seed)
    _checked(torch.cat(list(sets.values())), model)
    return TokenSets(**sets, source=f"{source}{len(documents):,} documents, seed {seed}")


def tokenize(documents: Sequence[str], tokenizer: Any, sequences: int, length: int) -> Tensor:
    """The documents' first tokens, [sequences, length], or as many whole rows as they fill.

    Documents are set apart by a blank line.
    """
    ids: list[int] = []
    for document in documents:
        ids += tokenizer(document.rstrip("\n") + "\n\n")["input_ids"]
        if len(ids) >= sequences * length:
            break
    rows = min(sequences, len(ids) // length)
    return torch.tensor(ids[: rows * length], dtype=torch.int64).reshape(rows, length)


def tokens_digest(tokens: Tensor) -> str:
    """sha256 over shape and values."""
    tokens = tokens.to(torch.int64).contiguous()
    return hashlib.sha256(repr(list(tokens.shape)).encode() + tokens.numpy().tobytes()).hexdigest()


def _tokenize_apart(
    documents: list[str], tokenizer: Any, sizes: Sizes, seed: int
) -> dict[str, Tensor]:
    documents = list(documents)
    random.Random(seed).shuffle(documents)
    half = (len(documents) + 1) // 2
    length = sizes.length
    judging = tokenize(documents[half:], tokenizer, sizes.search + sizes.held_out, length)
    calibrating = tokenize(documents[:half], tokenizer, sizes.calibration, length)
    if not len(calibrating) or len(judging) < 2:
        raise CalibrationError(
            f"The text is too short: of {len(documents)} documents, one half must have {length:,} "
            f"tokens to calibrate on, and the other {2 * length:,} to search and judge on. Give "
            "more documents, or a smaller length."
        )
    held_out = max(1, round(len(judging) * sizes.held_out / (sizes.search + sizes.held_out)))
    held_out = min(held_out, len(judging) - 1)
    return {
        "calibration": calibrating,
        "held_out": judging[:held_out],
        "search": judging[held_out:],
    }


def _checked(tokens: Tensor, model: nn.Module) -> Tensor:
    if tokens.dim() != 2 or tokens.is_floating_point():
        raise CalibrationError(
            f"Tokens must be integers of shape [sequences, length]; these are {tokens.dtype} "
            f"{list(tokens.shape)}."
        )
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    if (
        tokens.numel()
        and vocabulary is not None
        and not 0 <= tokens.min() <= tokens.max() < vocabulary
    ):
        raise CalibrationError(
            f"Tokens run from {tokens.min()} to {tokens.max()}, but the model's vocabulary has "
            f"{vocabulary:,}. Use the model's own tokenizer."
        )
    return tokens.to(torch.int64)


def _cut(tokens: Tensor, sizes: Sizes, source: str) -> TokenSets:
    if len(tokens) < 3 or tokens.shape[1] < 2:
        raise CalibrationError(
            f"The tokens have shape {list(tokens.shape)}; calibrating, searching and judging need "
            "at least 3 sequences of 2. Give more."
        )
    held_out = min(sizes.held_out, max(1, len(tokens) * sizes.held_out // sizes.total))
    search = min(sizes.search, max(1, len(tokens) * sizes.search // sizes.total))
    calibration = min(sizes.calibration, len(tokens) - held_out - search)
    return TokenSets(
        held_out=tokens[:held_out],
        search=tokens[held_out : held_out + search],
        calibration=tokens[held_out + search :][:calibration],
        source=source,
    )
