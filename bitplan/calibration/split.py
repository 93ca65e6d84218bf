"""One source cut into three parts that share no document: to calibrate, to search, to judge."""

import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from bitplan.calibration.sizes import Counts
from bitplan.errors import CalibrationError
from bitplan.models import Inputs

Rows = TypeVar("Rows", Tensor, Inputs)
"""Tokens [sequences, length], or other inputs."""

SETS = ("calibration", "search", "held_out")

CHARACTERS_A_TOKEN = 6
"""How much text is tokenized at first for the tokens that are needed."""


def split_documents(
    documents: Sequence[str],
    tokenizer: Any,
    counts: Mapping[str, int],
    length: int,
    *,
    seed: int,
    name: str,
) -> dict[str, Int[Tensor, "sequences length"]]:
    """As many sequences of each set as `counts` asks for, or as there are.

    Documents are shuffled with `seed`; the first half calibrates, the second half is judged and
    searched on. `name` is for errors. Raises `CalibrationError` where a set gets nothing.
    """
    documents = list(documents)
    random.Random(seed).shuffle(documents)
    half = max(1, min((len(documents) + 1) // 2, len(documents) - 2))
    calibrating, judging = documents[:half], documents[half:]
    both = counts["held_out"] + counts["search"]
    border = _share(judging, counts["held_out"] / both if both else 0.5)
    parts = {
        "calibration": tokenize(calibrating, tokenizer, counts["calibration"], length),
        "held_out": tokenize(judging[:border], tokenizer, counts["held_out"], length),
        "search": tokenize(judging[border:], tokenizer, counts["search"], length),
    }
    if any(counts[part] and not len(parts[part]) for part in SETS):
        if len(documents) < len(SETS):
            raise CalibrationError(
                f"{name} is {len(documents)} document{'s' * (len(documents) > 1)}, but three are "
                "needed at least: to calibrate, to search and to judge on, none the same. Set "
                "documents apart by blank lines, or give more."
            )
        raise CalibrationError(
            f"{name} is too short: of {len(documents):,} documents, one half must have "
            f"{length:,} tokens to calibrate on, and the other twice as many, in documents of "
            "their own, to search and to judge on. Give more documents, set apart by blank lines, "
            "or a smaller length."
        )
    return parts


def split_tokens(tokens: Rows, counts: Mapping[str, int], *, name: str) -> dict[str, Rows]:
    """The same of ready sequences: too few shrink all sets in proportion."""
    asked = sum(counts.values())
    least = {name: min(1, count) for name, count in counts.items()}
    needed = sum(least.values())
    shape = list(tokens.shape) if isinstance(tokens, Tensor) else [len(tokens)]
    if len(tokens) < needed or 1 in shape[1:]:
        raise CalibrationError(
            f"{name} have shape {shape}; calibrating, searching and judging need "
            f"at least {needed} different sequences of 2. Give more."
        )

    def few(part: str, others: int) -> int:
        wanted = min(counts[part], max(1, len(tokens) * counts[part] // asked))
        return min(wanted, len(tokens) - others)

    held_out = few("held_out", least["calibration"] + least["search"])
    search = few("search", least["calibration"] + held_out)
    calibration = min(counts["calibration"], len(tokens) - held_out - search)
    return {
        "held_out": tokens[:held_out],
        "search": tokens[held_out : held_out + search],
        "calibration": tokens[held_out + search :][:calibration],
    }


def by_set(counts: Counts) -> dict[str, int]:
    """Sequences by the name of the set."""
    return {name: getattr(counts, name) for name in SETS}


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


def _share(documents: list[str], share: float) -> int:
    """How many of the first documents hold a share of the text; the others keep one at least."""
    ends = list(accumulate(map(len, documents)))
    wanted = share * ends[-1] if ends else 0
    return max(1, min(bisect_left(ends, wanted) + 1, len(documents) - 1))
