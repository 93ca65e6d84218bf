"""The KL of leaving out a sublayer is that of the model with all of its weights zero."""

import copy

import pytest
import torch
from torch import nn

from bitplan.errors import ModelError
from bitplan.models import find_layers, find_sublayers, logits_kl, next_token_logits
from bitplan.sensitivity import removal_costs

TOKENS = torch.randint(3, 96, (5, 12), generator=torch.Generator().manual_seed(0))


def costs_of(model, folder, tokens=TOKENS):
    layers = find_layers(model)
    names = {layer.name: layer for layer in layers}
    return removal_costs(model, find_sublayers(model, layers), names, tokens, folder)


def without(model: nn.Module, sublayer: str) -> nn.Module:
    """A copy with all weights of a sublayer zero; biases stay."""
    changed = copy.deepcopy(model)
    for module in changed.get_submodule(sublayer).modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            module.weight.zero_()
    return changed


def kl_of(model: nn.Module, other: nn.Module, tokens: torch.Tensor) -> float:
    each = [
        logits_kl(*(next_token_logits(one, row[None])[0] for one in (model, other)))
        for row in tokens
    ]
    return float(sum(each) / len(each))


@pytest.mark.parametrize("name", ["llama-tied", "gpt2"])
def test_the_last_layer_has_the_loss_and_the_others_none(name, tiny_model, tmp_path):
    model = tiny_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    costs = costs_of(model, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    sublayers = find_sublayers(model, find_layers(model))
    assert list(costs) == [layer for one in sublayers for layer in one.layers]
    for sublayer in sublayers:
        *others, last = (costs[layer] for layer in sublayer.layers)
        assert [cost.loss for cost in others] == [0.0] * len(others)
        wanted = kl_of(model, without(model, sublayer.name), TOKENS)
        assert last.loss == pytest.approx(wanted, rel=1e-4)
        assert 0 < last.standard_error < last.loss
        assert (str(last.scheme), last.bytes) == ("none", 0)


def test_what_was_measured_is_not_measured_again(tiny_model, tmp_path):
    model = tiny_model("llama-tied")
    few = costs_of(model, tmp_path, TOKENS[:3])
    calls = []
    model.get_submodule("lm_head").register_forward_hook(lambda *_: calls.append(1))
    assert costs_of(model, tmp_path, TOKENS[:3]) == few
    assert not calls
    found = costs_of(model, tmp_path)
    assert len(calls) == 2 * (1 + 4)
    assert found == costs_of(model, tmp_path / "anew")


def test_outputs_that_are_not_finite_are_refused(tiny_model, tmp_path):
    model = tiny_model("llama-tied")
    model.get_submodule("model.norm").weight.fill_(torch.inf)
    with pytest.raises(ModelError, match="not finite"):
        costs_of(model, tmp_path)
