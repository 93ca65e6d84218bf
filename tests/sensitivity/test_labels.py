"""Labels of the data, and labels sampled from the model itself."""

import pytest
import torch
from torch import Tensor

from bitplan.calibration import sample_tokens
from bitplan.models import find_layers
from bitplan.sensitivity.objective import objective

HEAD = "lm_head"
SOME = (HEAD, "model.layers.1.mlp.up_proj", "model.layers.0.self_attn.v_proj", "model.embed_tokens")


def covariances(gathered, model, tokens: Tensor, labels: str) -> dict[str, Tensor]:
    layers = [layer for layer in find_layers(model) if layer.name in SOME]
    found = gathered(model, tokens, layers, moments=["covariance"], labels=labels)
    return {name: statistics.covariance for name, statistics in found.items()}


def relative(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_sampled_labels_are_the_same_each_time_and_not_those_of_the_data(
    name, tiny_model, some_tokens, gathered
):
    model, tokens = tiny_model(name), some_tokens(3)
    one, two = (covariances(gathered, model, tokens, "sampled") for _ in range(2))
    assert all(torch.equal(one[layer], two[layer]) for layer in one)
    data = covariances(gathered, model, tokens, "data")
    assert not any(torch.allclose(one[layer], data[layer]) for layer in one)


def test_the_state_of_the_generator_has_no_say_and_stays(tiny_model, some_tokens):
    model, tokens = tiny_model("llama"), some_tokens(1)
    torch.manual_seed(1)
    one, state = objective(model, tokens, labels="sampled"), torch.get_rng_state()
    torch.manual_seed(2)
    assert objective(model, tokens, labels="sampled") == one
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_labels_of_the_data_are_the_next_tokens(tiny_model, some_tokens):
    model, tokens = tiny_model("llama"), some_tokens(2)
    told = model(input_ids=tokens).logits.log_softmax(-1)
    expected = -told[:, :-1].gather(-1, tokens[:, 1:, None]).sum()
    assert objective(model, tokens).item() == pytest.approx(expected.item(), rel=1e-5)


def test_sampled_labels_are_drawn_from_the_model(tiny_model, some_tokens):
    model, tokens = tiny_model("llama"), some_tokens(200)
    found = torch.stack([objective(model, one[None], labels="sampled") for one in tokens])
    told = model(input_ids=tokens).logits.log_softmax(-1)
    # The expected loss of a label drawn from p is p's entropy.
    entropy = -(told.exp() * told).sum(-1).sum(-1)
    noise = (found - entropy).std() / len(found) ** 0.5
    assert abs((found - entropy).mean()) < 4 * noise
    assert noise < 0.01 * entropy.mean()


def test_on_the_models_own_text_both_labels_give_the_same_statistics(
    tiny_model, some_tokens, gathered
):
    model = tiny_model("llama")
    model.lm_head.weight.mul_(4)  # sure of itself, as trained models are
    own = sample_tokens(model, 200, 24)
    data, sampled = (covariances(gathered, model, own, kind) for kind in ("data", "sampled"))
    apart = {name: relative(sampled[name], data[name]) for name in data}
    assert set(apart) == set(SOME)
    # A few thousand tokens tell it no better.
    assert max(apart.values()) < 0.15
    assert apart[HEAD] < 0.1
    # Text that the model would not write surprises it, and its gradients are larger.
    other = some_tokens(40)
    data, sampled = (covariances(gathered, model, other, kind) for kind in ("data", "sampled"))
    assert relative(sampled[HEAD], data[HEAD]) > 0.3
