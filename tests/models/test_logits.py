"""What a model says next, and what is said of models that say nothing."""

import pytest
import torch
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models import eager_experts, next_token_logits

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


@pytest.mark.parametrize("name", ["bert", "t5", "plain", "tensor"])
def test_a_model_without_logits_is_refused(name, tiny):
    modules = {"plain": lambda: Plain(dimensions=2), "tensor": Tensors}
    model = modules[name]() if name in modules else tiny(name)
    with pytest.raises(ModelError, match="gives no next-token logits"):
        next_token_logits(model, TOKENS)


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
