"""Three sets of tokens, apart by document: to calibrate, to search, to judge."""

import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.calibration.documents import read_documents
from bitplan.calibration.limits import check_inputs, check_length
from bitplan.calibration.sample import sample_tokens
from bitplan.errors import CalibrationError
from bitplan.models import Inputs
from bitplan.progress import Progress, quiet

SAMPLED = "sampled from the model"
"""How the source of sampled tokens begins: they can be drawn again."""


CHARACTERS_A_TOKEN = 6
"""How much text is tokenized at first for the tokens that are needed."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sequences of each set, and their common length in tokens."""

    calibration: int = 32
    search: int = 8
    held_out: int = 16
    length: int = 256

    def __post_init__(self) -> None:
        for name, least in {"calibration": 1, "search": 1, "held_out": 1, "length": 2}.items():
            if getattr(self, name) < least:
                raise CalibrationError(
                    f"Sizes({name}={getattr(self, name)}) is too small; it must be {least} or more."
                )

    @property
    def total(self) -> int:
        """Sequences of all three sets."""
        return self.calibration + self.search + self.held_out


@dataclass(frozen=True, kw_only=True)
class TokenSets:
    """Token ids, int64 [sequences, length], or other inputs, and where they came from."""

    calibration: Int[Tensor, "calibration length"] | Inputs
    search: Int[Tensor, "search length"] | Inputs
    held_out: Int[Tensor, "held_out length"] | Inputs
    source: str

    def checked(self, model: nn.Module) -> "TokenSets":
        """The same sets as int64. Raises `CalibrationError` where a model cannot read them."""
        return replace(
            self,
            calibration=check_inputs(self.calibration, model),
            search=check_inputs(self.search, model),
            held_out=check_inputs(self.held_out, model),
        )


Calibration = str | Path | Sequence[str] | Tensor | Mapping[str, Tensor] | TokenSets | None
"""A text or JSONL file, documents, tokens [sequences, length], ready sets, or None: sample.

A model that reads something else is given tensors by name: {"pixel_values": [images, ...]}.
"""


def prepare(
    calibration: Calibration,
    *,
    model: nn.Module,
    tokenizer: Any = None,
    sizes: Sizes = Sizes(),
    seed: int = 0,
    partial: Path | None = None,
    progress: Progress = quiet,
) -> TokenSets:
    """Token sets from whatever the caller gave.

    Documents are shuffled with `seed`; the first half calibrates, the second half is judged and
    searched on. Where there is too little text the sets shrink in proportion. `partial` is as for
    `sample_tokens`. Raises `CalibrationError` when that leaves a set without a sequence, tokens
    exceed the vocabulary, or sequences are longer than the model reads.
    """
    if isinstance(calibration, TokenSets):
        return calibration.checked(model)
    if calibration is None:
        tokens = sample_tokens(
            model, sizes.total, sizes.length, seed=seed, partial=partial, progress=progress
        )
        return _cut(tokens, sizes, f"{SAMPLED}, seed {seed}")
    if isinstance(calibration, Tensor):
        tokens = check_inputs(calibration, model)
        return _cut(tokens, sizes, f"tokens {list(calibration.shape)}")
    if isinstance(calibration, Mapping):
        inputs = check_inputs(calibration, model)
        shapes = {name: list(tensor.shape) for name, tensor in calibration.items()}
        named = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        return _cut(inputs, sizes, named)
    if tokenizer is None:
        raise CalibrationError(
            "Text needs a tokenizer, and this model came without one. Give tokenizer=, or tokens."
        )
    check_length(sizes.length, model)
    documents = read_documents(calibration)
    file = f"{Path(calibration).name}, " if isinstance(calibration, str | Path) else ""
    source = f"{file}{len(documents):,} documents, seed {seed}"
    return _tokenize_apart(documents, tokenizer, sizes, seed, source).checked(model)


def tokenize(documents: Sequence[str], tokenizer: Any, sequences: int, length: int) -> Tensor:
    """The documents' first tokens, [sequences, length], or as many whole rows as they fill.

    Documents are joined by a blank line and tokenized as one text, as a model meets them.
    """
    needed, ids, read = sequences * length, [], 0
    characters = CHARACTERS_A_TOKEN * needed
    while len(ids) < needed and read < len(documents):
        taken, read = 0, 0
        while read < len(documents) and taken < characters:
            taken += len(documents[read])
            read += 1
        text = "".join(document.rstrip("\n") + "\n\n" for document in documents[:read])
        ids = tokenizer(text, verbose=False)["input_ids"]
        characters *= 2
    rows = min(sequences, len(ids) // length)
    return torch.tensor(ids[: rows * length], dtype=torch.int64).reshape(rows, length)


def tokens_digest(tokens: Tensor | Inputs) -> str:
    """sha256 over shape and values, and of other inputs than tokens their names."""
    return Inputs.of(tokens).digest


def _tokenize_apart(
    documents: list[str], tokenizer: Any, sizes: Sizes, seed: int, source: str
) -> TokenSets:
    documents = list(documents)
    random.Random(seed).shuffle(documents)
    half = max(1, min((len(documents) + 1) // 2, len(documents) - 2))
    calibrating, judging = documents[:half], documents[half:]
    border = _share(judging, sizes.held_out / (sizes.held_out + sizes.search))
    length = sizes.length
    sets = TokenSets(
        calibration=tokenize(calibrating, tokenizer, sizes.calibration, length),
        held_out=tokenize(judging[:border], tokenizer, sizes.held_out, length),
        search=tokenize(judging[border:], tokenizer, sizes.search, length),
        source=source,
    )
    if not (len(sets.calibration) and len(sets.held_out) and len(sets.search)):
        raise CalibrationError(
            f"The text is too short: of {len(documents):,} documents, one half must have "
            f"{length:,} tokens to calibrate on, and the other twice as many, in documents of "
            "their own, to search and to judge on. Give more documents, set apart by blank lines, "
            "or a smaller length."
        )
    return sets


def _share(documents: list[str], share: float) -> int:
    """How many of the first documents hold a share of the text; the others keep one at least."""
    ends = list(accumulate(map(len, documents)))
    wanted = share * ends[-1] if ends else 0
    return max(1, min(bisect_left(ends, wanted) + 1, len(documents) - 1))


def _cut(tokens: Tensor | Inputs, sizes: Sizes, source: str) -> TokenSets:
    if len(tokens) < 3:
        raise CalibrationError(
            f"There are {len(tokens)} sequences ({source}); calibrating, searching and judging "
            "need at least 3 sequences. Give more."
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
