"""What is differentiated has squared gradients that are, in the mean, twice the KL of an error."""

import pytest
import torch
from torch import Tensor, nn

from bitplan.evaluate.divergence import compare, make_reference
from bitplan.models import Inputs
from bitplan.sensitivity.objective import objective

SEQUENCES = 600


class Model(nn.Module):
    """Reads features; gives states, class logits, or logits at each position."""

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives
        self.linear = nn.Linear(6, 5)

    def can_generate(self) -> bool:
        return False

    def forward(self, features: Tensor) -> object:
        output = self.linear(features) * 2
        if self.gives == "classes":
            output = output.mean(1)
        name = "last_hidden_state" if self.gives == "states" else "logits"
        return type("Output", (), {name: output})


def inputs_for(sequences: int = SEQUENCES, positions: int = 3) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    return Inputs.of({"features": torch.randn(sequences, positions, 6, generator=generator)})


@pytest.mark.parametrize(("gives", "positions"), [("states", 3), ("words", 3), ("classes", 1)])
def test_its_squared_gradient_is_twice_the_kl(gives, positions):
    torch.manual_seed(0)
    model, inputs = Model(gives), inputs_for()
    change = torch.randn(5, 6) * 0.01
    reference = make_reference(model, inputs)
    squares = []
    for index in range(SEQUENCES):
        model.zero_grad()
        objective(model, inputs[index : index + 1]).backward()
        squares.append((model.linear.weight.grad * change).sum().item() ** 2)
    predicted = torch.tensor(squares).mean().item() / (2 * positions)
    with torch.no_grad():
        model.linear.weight.add_(change)
    # A mean of 600 squares has a relative standard error of 6%, or a little more.
    assert predicted == pytest.approx(compare(model, reference).mean, rel=0.2)


@pytest.mark.parametrize("gives", ["states", "words", "classes"])
def test_the_same_sequence_draws_the_same_and_others_draw_others(gives):
    torch.manual_seed(0)
    model, inputs = Model(gives), inputs_for(4, 5)
    once, again = (objective(model, inputs[:1]).item() for _ in range(2))
    assert once == again
    # The model's own wording of the labels makes no difference where the data has none.
    assert objective(model, inputs[:1], labels="sampled").item() == once
    assert objective(model, inputs[1:2]).item() != once


def test_next_tokens_of_the_data_have_their_negative_log_likelihood(tiny_model):
    model, tokens = tiny_model("llama"), torch.arange(3, 23).reshape(2, 10)
    logits = model(input_ids=tokens).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
    )
    assert torch.equal(objective(model, tokens), expected)
    assert torch.equal(objective(model, Inputs.of(tokens)), expected)
    assert not torch.equal(objective(model, tokens, labels="sampled"), expected)


def test_outputs_that_are_not_finite_give_a_loss_that_is_not():
    model, inputs = Model("words"), inputs_for(1)
    model.linear.weight.data[0] = torch.nan
    assert not objective(model, inputs).isfinite()
