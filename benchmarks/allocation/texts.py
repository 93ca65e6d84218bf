"""What is read: to calibrate, to search, to choose, and to judge, apart from one another.

Titles are sorted and shuffled with `random.Random(0)`. The first half of the articles calibrates:
32 x 256 tokens, other ones for every seed. The second half judges, 16 x 512 tokens that are the
same for all; the tokens after those are searched on, again others for every seed. Other text than
articles is the docstrings of Python's standard library.
"""

import ast
import random
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bitplan.calibration import TokenSets, tokenize

CALIBRATION, LENGTH = 32, 256
SEARCH, CHOICE = 32, 16
"""Sequences that a search accepts its moves on, and others that it chooses on at its end."""
JUDGED, OTHER, JUDGED_LENGTH = 16, 4, 512
SHORTEST_DOCSTRING = 200
"""Characters: what is shorter says little of how a language is modelled."""


def calibration_of(documents: Sequence[str], tokenizer: Any, seed: int) -> Tensor:
    """The tokens that are calibrated on, [32, 256]."""
    half = documents[: len(documents) // 2]
    return tokenize(half, tokenizer, CALIBRATION * (seed + 1), LENGTH)[-CALIBRATION:]


def sets_of(documents: Sequence[str], tokenizer: Any, seed: int) -> tuple[TokenSets, Tensor]:
    """All sets of a seed, `held_out` for nobody but the judge; and what is chosen on, [16, 256]."""
    half = documents[len(documents) // 2 :]
    before, each = JUDGED * JUDGED_LENGTH // LENGTH, SEARCH + CHOICE
    judging = tokenize(half, tokenizer, before + each * (seed + 1), LENGTH)
    searched = judging[before:][-each:]
    sets = TokenSets(
        calibration=calibration_of(documents, tokenizer, seed),
        held_out=judging[:before].reshape(JUDGED, JUDGED_LENGTH),
        search=searched[:SEARCH],
        source="Wikipedia summaries",
    )
    return sets, searched[SEARCH:]


def other_text(tokenizer: Any) -> Tensor:
    """Docstrings of the standard library's modules, classes and functions, [4, 512]."""
    documents = _docstrings(Path(sysconfig.get_path("stdlib")))
    random.Random(0).shuffle(documents)
    return tokenize(documents, tokenizer, OTHER, JUDGED_LENGTH)


def at_most(length: int, tokens: Tensor) -> Tensor:
    """The same tokens [sequences, tokens] in shorter sequences, where these are longer."""
    return tokens.reshape(-1, min(length, tokens.shape[1]))


def _docstrings(folder: Path) -> list[str]:
    found: set[str] = set()
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.add(ast.get_docstring(node) or "")
    return sorted(text for text in found if len(text) >= SHORTEST_DOCSTRING)
