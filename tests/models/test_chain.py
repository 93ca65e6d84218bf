"""Which models are chains of blocks, and why others are not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models.chain import find_chain


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, hidden_states: Tensor, extra: Any = None) -> Tensor:
        output = hidden_states + self.linear(hidden_states).tanh()
        return output + extra if isinstance(extra, Tensor) else output


class Model(nn.Module):
    """Three blocks in a row, and what subclasses make of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 16)
        self.requires_grad_(False)

    def loss(self) -> Tensor:
        first = self.embed(torch.arange(5)[None])
        return self.head(self.between(first)).square().sum()

    def between(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden_states=hidden, extra=torch.ones(8))
        return hidden


class InTuples(Model):
    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.forward = _InTuple(block.forward)

    def between(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden)[0]
        return hidden


class _InTuple:
    def __init__(self, forward: Any) -> None:
        self.forward = forward

    def __call__(self, hidden: Tensor) -> tuple[Tensor, None]:
        return self.forward(hidden), None


class Scaled(Model):
    def between(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden) * 2
        return hidden


class Twice(Model):
    def between(self, hidden: Tensor) -> Tensor:
        return super().between(super().between(hidden))


class OneLess(Model):
    def between(self, hidden: Tensor) -> Tensor:
        return self.blocks[1](self.blocks[0](hidden))


class FirstAgain(Model):
    def between(self, hidden: Tensor) -> Tensor:
        first = hidden
        for block in self.blocks:
            hidden = block(hidden, extra=first)
        return hidden


class Shared(Model):
    def between(self, hidden: Tensor) -> Tensor:
        notes = object()
        for block in self.blocks:
            hidden = block(hidden, extra=notes)
        return hidden


class Chosen(Model):
    def between(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden, extra=hidden.detach().mean(0))
        return hidden


class SkipToEnd(Model):
    def between(self, hidden: Tensor) -> Tensor:
        return super().between(hidden) + hidden


class AllToEnd(Model):
    def between(self, hidden: Tensor) -> Tensor:
        kept = [hidden]
        for block in self.blocks:
            kept.append(block(kept[-1]))
        return kept[-1] + kept[2]


@pytest.mark.parametrize("kind", [Model, InTuples])
def test_a_chain_gives_the_loss_and_gradients_of_the_whole(kind):
    torch.manual_seed(0)
    model = kind()
    with torch.enable_grad():
        chain = find_chain(model, model.loss)
        assert chain.path == "blocks"
        assert chain.place("blocks.2.linear") == 2
        assert chain.place("head") is None
        hidden, calls = chain.begin(model.loss)
        for index, call in enumerate(calls):
            hidden = chain.block(index, hidden, call)
        assert torch.equal(chain.end(model.loss, hidden), model.loss())
        assert torch.equal(chain.prefix(model.loss), model.embed(torch.arange(5)[None]))
    assert [set(vars(block)) for block in model.blocks] == [set(vars(b)) for b in kind().blocks]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Scaled, "block 1 does not read the output of the one before"),
        (Twice, "its blocks do not run one after another, each once"),
        (OneLess, "2 of the 3 blocks were run"),
        (FirstAgain, "block 0 reads more than one hidden state"),
        (Shared, "block 0 is given something that may change, of type object"),
        (Chosen, "what its blocks are given depends on what blocks before them gave"),
        (SkipToEnd, "its end reads more than the last block's output"),
        (AllToEnd, "its end reads more than the last block's output"),
    ],
)
def test_what_is_no_chain_says_why(kind, reason):
    torch.manual_seed(0)
    model = kind()
    with (
        torch.enable_grad(),
        pytest.raises(ModelError, match=f"^{kind.__name__} cannot be run block by block: {reason}"),
    ):
        find_chain(model, model.loss)


def test_a_model_without_blocks_says_so():
    with pytest.raises(ModelError, match="it has no list of blocks"):
        find_chain(nn.Linear(3, 3), lambda: torch.zeros(()))
