"""What counts the tokens that are taken so."""

import pytest

from bitplan.kernels.decoder.block import Block
from stepping import counted


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """A number for each token that a block took in two calls."""
    made = []
    monkeypatch.setattr(Block, "after", counted(Block.after, made))
    return made


@pytest.fixture
def packed_calls(monkeypatch) -> list[int]:
    """A number for each token that attended to what is packed."""
    made = []
    monkeypatch.setattr(Block, "after_packed", counted(Block.after_packed, made))
    return made
