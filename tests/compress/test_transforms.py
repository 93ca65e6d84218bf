"""Folding a transform into a model: its outputs stay, and its weights lose less when rounded."""

import logging

import pytest
import torch

from bitplan.compress import fold, render, search_scales
from bitplan.compress.scales import ROWS, search_scale
from bitplan.errors import InputError, ModelError
from bitplan.models import find_layers, weight_of
from bitplan.models.fold import Change, spread
from bitplan.schema import Scheme

INT3 = Scheme.parse("int3g16")
TOKENS = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(3))


def covariance_of(width, *, seed, large=()):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(200, width, generator=generator)
    inputs[:, list(large)] *= 30
    return inputs.T @ inputs


def weight(rows, columns, *, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def loss(original, covariance, scale):
    change = Change(scale=scale)
    error = render(change.reader(original), [INT3], quantizer="rtn")[INT3].decode() / scale
    error -= original
    return ((error @ covariance) * error).sum().item()


def test_channels_of_large_inputs_are_scaled_up_and_the_loss_falls():
    matrix, covariance = weight(40, 48), covariance_of(48, seed=1, large=[5, 20])
    scale = search_scale([matrix], [covariance], INT3)
    torch.testing.assert_close(scale.log().mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert set(scale.topk(2).indices.tolist()) == {5, 20}
    assert loss(matrix, covariance, scale) < 0.5 * loss(matrix, covariance, torch.ones(48))


def test_channels_of_equal_inputs_are_left_alone():
    scale = search_scale([weight(40, 48)], [torch.eye(48)], INT3)
    assert torch.equal(scale, torch.ones(48))


def test_readers_share_the_scale_that_is_best_for_their_sum():
    matrices = [weight(8, 48, seed=1), weight(8, 48, seed=2)]
    covariances = [covariance_of(48, seed=1, large=[5]), 1e4 * covariance_of(48, seed=2, large=[9])]
    scale = search_scale(matrices, covariances, INT3)
    assert scale.argmax() == 9


def test_heads_that_read_one_head_share_its_scale():
    matrix, covariance = weight(40, 48), covariance_of(48, seed=1, large=[3, 11, 19, 27])
    scale = search_scale([matrix], [covariance], INT3, copies=2, head=8)
    assert scale.shape == (24,)
    assert set(scale.topk(2).indices.tolist()) == {3, 11}  # of 3 and 11, of 19 and 27
    every = spread(scale, 2, 8)
    assert torch.equal(every[:8], every[8:16])
    assert loss(matrix, covariance, every) < loss(matrix, covariance, torch.ones(48))


def test_of_a_long_weight_every_few_rows_tell():
    matrix, covariance = weight(1100, 16), covariance_of(16, seed=1, large=[5])
    scale = search_scale([matrix], [covariance], INT3)
    others = torch.arange(1100) % -(-1100 // ROWS) > 0
    matrix[others] = 0
    assert torch.equal(search_scale([matrix], [covariance], INT3), scale)


@pytest.mark.parametrize("transform", ["awq", "hadamard"])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2"])
def test_the_outputs_stay(tiny_model, name, transform):
    model = tiny_model(name)
    before = model(TOKENS).logits
    weights = {layer.name: weight_of(model, layer).clone() for layer in find_layers(model)}
    widths = {name: one.shape[1] for name, one in weights.items()}
    scales = search_scales(
        model,
        lambda path: covariance_of(widths[path], seed=len(path), large=[1, 6]),
        scheme=INT3,
    )
    assert fold(model, transform, scales=scales) is model
    after = model(TOKENS).logits
    assert (after - before).square().mean().sqrt() < 2e-5 * before.square().mean().sqrt()
    changed = {n for n, one in weights.items() if not torch.equal(weight_at(model, n), one)}
    assert any("c_proj" in one or "o_proj" in one for one in changed)
    assert ("model.embed_tokens" in changed) == (name == "llama" and transform == "hadamard")


def weight_at(model, name):
    return weight_of(model, next(layer for layer in find_layers(model) if layer.name == name))


def test_what_keeps_the_stream_from_being_rotated_is_said(tiny_model, caplog):
    with caplog.at_level(logging.WARNING, logger="bitplan"):
        fold(tiny_model("llama-tied"), "hadamard")
    assert "head and embedding are one weight" in caplog.text


def test_none_changes_nothing(tiny_model):
    model, same = tiny_model("mixtral"), tiny_model("mixtral")
    fold(model, "none")
    for one, other in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["mixtral", "qwen-moe", "gemma", "mamba", "bert", "t5"])
def test_models_of_other_types_are_refused(tiny_model, name):
    with pytest.raises(ModelError, match="its type of model is"):
        fold(tiny_model(name), "hadamard")


def test_bad_input_is_refused(tiny_model):
    with pytest.raises(InputError, match=r"no transform 'spin'\. Choose one of: none, awq"):
        fold(tiny_model("llama"), "spin")
    with pytest.raises(InputError, match="give those of `search_scales`"):
        fold(tiny_model("llama"), "awq")
    with pytest.raises(InputError, match=r"give those of `bitplan.tune.learn_equivalents`"):
        fold(tiny_model("llama"), "omniquant")
