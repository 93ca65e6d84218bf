"""What a model says, and what is said of models that say nothing."""

import pytest
import torch
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models import (
    Inputs,
    Says,
    eager_experts,
    next_token_logits,
    positions,
    predicts_next_token,
    read_outputs,
)

TOKENS = torch.arange(3, 23).reshape(2, 10)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "mamba"])
def test_logits_are_the_models_own(name, tiny):
    model = tiny(name)
    with torch.no_grad():
        logits = next_token_logits(model, TOKENS)
        assert torch.equal(logits, model(input_ids=TOKENS).logits)
    assert logits.shape == (2, 10, 64)


class Plain(nn.Module):
    """A module of no library, which knows of no cache."""

    def __init__(self, dimensions: int = 3) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 8)
        self.dimensions = dimensions

    def forward(self, input_ids: Tensor) -> object:
        logits = self.table(input_ids)
        return type("Output", (), {"logits": logits if self.dimensions == 3 else logits[0]})


def test_a_module_without_a_cache_is_run_without():
    assert next_token_logits(Plain(), TOKENS).shape == (2, 10, 8)


@pytest.mark.parametrize("name", ["bert", "bert-masked", "t5"])
def test_a_model_that_predicts_no_next_token_is_refused_as_such(name, tiny):
    assert not predicts_next_token(tiny(name))
    with pytest.raises(ModelError, match="gives no next-token logits"):
        next_token_logits(tiny(name), TOKENS)


@torch.no_grad()
def test_an_encoder_gives_its_last_hidden_states(tiny):
    model = tiny("bert")
    found = read_outputs(model, Inputs.of(TOKENS))
    assert found.says is Says.STATES
    assert torch.equal(found.values, model(input_ids=TOKENS).last_hidden_state)
    assert positions(model, Inputs.of(TOKENS)) == 10


@torch.no_grad()
def test_a_masked_model_gives_labels_of_its_own_tokens(tiny):
    model = tiny("bert-masked")
    found = read_outputs(model, Inputs.of(TOKENS))
    assert found.says is Says.LABELS
    assert torch.equal(found.values, model(input_ids=TOKENS).logits)


@torch.no_grad()
def test_an_encoder_decoder_reads_tokens_shifted_right(tiny):
    model = tiny("t5")
    model.config.decoder_start_token_id = 0
    found = read_outputs(model, Inputs.of(TOKENS))
    assert found.says is Says.LABELS
    # What transformers itself does with labels: T5 decodes after its padding token.
    assert torch.equal(found.values, model(input_ids=TOKENS, labels=TOKENS).logits)
    mask = torch.ones_like(TOKENS)
    masked = read_outputs(model, Inputs.of({"input_ids": TOKENS, "attention_mask": mask}))
    assert torch.equal(masked.values, found.values)
    given = Inputs.of({"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :4]})
    assert read_outputs(model, given).values.shape == (2, 4, 64)
    assert positions(model, given) == 4


class Gives(nn.Module):
    """Gives what it is made with, of no library: logits, states, a tensor, a tuple."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def can_generate(self) -> bool:
        return False

    def forward(self, input_ids: Tensor) -> object:
        return self.output


class Output(dict):
    __getattr__ = dict.get


@pytest.mark.parametrize(
    ("output", "says", "shape"),
    [
        (Output(logits=torch.rand(2, 5)), Says.LABELS, (2, 1, 5)),
        (Output(logits=torch.rand(2, 7, 5)), Says.LABELS, (2, 7, 5)),
        (Output(logits=torch.rand(2, 1)), Says.STATES, (2, 1, 1)),
        (Output(logits=torch.rand(2, 5, 4, 3)), Says.STATES, (2, 12, 5)),
        (Output(last_hidden_state=torch.rand(2, 5, 4, 3)), Says.STATES, (2, 12, 5)),
        (Output(loss=None, start=torch.rand(2, 9)), Says.STATES, (2, 1, 9)),
        ((torch.ones(2, 3, dtype=torch.int64), torch.rand(2, 3, 8)), Says.STATES, (2, 3, 8)),
        (torch.rand(2, 3, 8), Says.STATES, (2, 3, 8)),
    ],
    ids=["classes", "words", "number", "map", "image", "answers", "tuple", "tensor"],
)
def test_what_a_model_says_is_told_by_what_it_gives(output, says, shape):
    found = read_outputs(Gives(output), Inputs.of(TOKENS))
    assert found.says is says
    assert found.values.shape == shape
    values = output if isinstance(output, Tensor) else None
    if values is not None:
        assert torch.equal(found.values, values)


def test_of_an_image_each_place_is_a_position():
    image = torch.rand(2, 5, 4, 3)
    found = read_outputs(Gives(Output(last_hidden_state=image)), Inputs.of(TOKENS))
    assert torch.equal(found.values[1, 3 * 2 + 1], image[1, :, 2, 1])


@pytest.mark.parametrize("name", ["plain", "tensor"])
def test_a_model_that_gives_nothing_of_each_sequence_is_refused(name):
    model = Plain(dimensions=2) if name == "plain" else Tensors()
    with pytest.raises(
        ModelError, match="gives neither logits nor hidden states for each of the 2"
    ):
        read_outputs(model, Inputs.of(TOKENS))
    with pytest.raises(ModelError, match="gives 3 rows for 2 sequences"):
        read_outputs(Gives(Output(logits=torch.rand(3, 4))), Inputs.of(TOKENS))


class Tensors(nn.Module):
    def forward(self, input_ids: Tensor) -> Tensor:
        return input_ids


@pytest.mark.parametrize("name", ["mixtral", "llama", "plain"])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_experts_are_eager_within_and_as_before_after(name, error, tiny):
    model = Plain() if name == "plain" else tiny(name)
    before = None if name == "plain" else model.get_experts_implementation()
    try:
        with eager_experts(model):
            if name == "mixtral":
                assert model.config._experts_implementation == "eager"
            if error:
                raise error
    except KeyboardInterrupt:
        assert error
    if name != "plain":
        assert model.get_experts_implementation() == before


def test_a_way_to_run_experts_that_is_chosen_within_stays(tiny):
    model = tiny("mixtral")
    with eager_experts(model):
        model.set_experts_implementation("batched_mm")
    assert model.config._experts_implementation == "batched_mm"
