"""Folded changes leave a model's outputs as they are."""

import pytest
import torch
import transformers

from bitplan.errors import ModelError
from bitplan.models import find_layers, weight_of
from bitplan.models.fold import Change, change_group, rotate_heads, rotate_stream
from bitplan.models.hadamard import random_rotation
from bitplan.models.neighbours import find_neighbours, takes_shift

TOKENS = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(3))
SIZES = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
BIASED = {"attention_bias": True, "mlp_bias": True}
SCALED = {"residual_multiplier": 0.6, "embedding_multiplier": 3.0, "logits_scaling": 2.0}
MODELS = {
    "llama": ("Llama", SIZES),
    "llama-tied": ("Llama", {**SIZES, "tie_word_embeddings": True}),
    "llama-biases": ("Llama", {**SIZES, **BIASED}),
    "mistral": ("Mistral", {**SIZES, "head_dim": 20}),
    "qwen2": ("Qwen2", SIZES),
    "qwen3": ("Qwen3", {**SIZES, "head_dim": 8}),
    "smollm3": ("SmolLM3", {**SIZES, "tie_word_embeddings": False}),
    "granite": ("Granite", {**SIZES, **SCALED, "attention_bias": True}),
    "gpt2": (
        "GPT2",
        {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 64}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "mixtral": ("Mixtral", {**SIZES, "num_local_experts": 3, "num_experts_per_tok": 2}),
}
FOLDED = [name for name in MODELS if name != "mixtral"]
ROTATED = [name for name in FOLDED if name not in ("gpt2", "llama-tied")]


def build(name, dtype=torch.float32):
    stem, arguments = MODELS[name]
    config = getattr(transformers, f"{stem}Config")(**arguments)
    model_class = getattr(
        transformers, f"{stem}{'LMHeadModel' if stem == 'GPT2' else 'ForCausalLM'}"
    )
    generator = torch.Generator().manual_seed(0)
    model = model_class(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        mean = 1.0 if parameter.dim() == 1 else 0.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + mean)
    return model.to(dtype)


def logits_of(model):
    return model(TOKENS).logits


def assert_same(model, before, tolerance=2e-5):
    after = logits_of(model)
    assert (after - before).square().mean().sqrt() < tolerance * before.square().mean().sqrt()


def channels_of(model, group):
    return weight_at(model, group.readers[0]).shape[1] // group.copies


def weight_at(model, path):
    return weight_of(model, next(layer for layer in find_layers(model) if layer.name == path))


@pytest.mark.parametrize("name", FOLDED)
def test_scales_of_every_group_leave_the_logits(name):
    model = build(name)
    before, generator = logits_of(model), torch.Generator().manual_seed(1)
    weights = {layer.name: weight_of(model, layer).clone() for layer in find_layers(model)}
    for group in find_neighbours(model).groups:
        scale = torch.rand(channels_of(model, group), generator=generator) * 4 + 0.3
        change_group(model, group, Change(scale=scale))
        for path in group.readers:
            assert not torch.allclose(weight_at(model, path), weights[path])
    assert_same(model, before)


@pytest.mark.parametrize("name", ["llama-biases", "granite", "gpt2"])
def test_shifts_where_biases_take_them_leave_the_logits(name):
    model = build(name)
    before, generator = logits_of(model), torch.Generator().manual_seed(1)
    groups = [one for one in find_neighbours(model).groups if takes_shift(model, one)]
    assert len(groups) == (6 if name == "gpt2" else 2)
    for group in groups:
        channels = channels_of(model, group)
        scale = torch.rand(channels, generator=generator) * 4 + 0.3
        shift = torch.randn(channels, generator=generator)
        change_group(model, group, Change(scale=scale, shift=shift))
    assert_same(model, before)


def test_a_gate_takes_no_shift_and_nor_do_norms_without_a_bias():
    groups = find_neighbours(model := build("llama-biases")).groups
    shifted = [takes_shift(model, group) for group in groups]
    assert shifted == [False, True, False, False] * 2
    assert not any(takes_shift(build("qwen2"), group) for group in groups)


@pytest.mark.parametrize("name", FOLDED)
def test_powers_of_two_round_nothing(name):
    model = build(name, torch.bfloat16)
    before, generator = logits_of(model), torch.Generator().manual_seed(1)
    for group in find_neighbours(model).groups:
        powers = torch.randint(-3, 4, (channels_of(model, group),), generator=generator)
        change_group(model, group, Change(scale=torch.exp2(powers)))
    assert torch.equal(logits_of(model), before)


@pytest.mark.parametrize("name", FOLDED)
def test_rotated_heads_leave_the_logits(name):
    model = build(name)
    before, neighbours = logits_of(model), find_neighbours(model)
    (head,) = {group.head for group in neighbours.groups if group.head}
    rotate_heads(model, neighbours, random_rotation(head, seed=0))
    assert_same(model, before)


@pytest.mark.parametrize("name", ROTATED)
def test_a_rotated_stream_leaves_the_logits(name):
    model = build(name)
    before, stream = logits_of(model), find_neighbours(model).stream
    embedding = model.get_input_embeddings().weight.clone()
    rotate_stream(model, stream, random_rotation(48, seed=0))
    assert_same(model, before)
    assert not torch.allclose(model.get_input_embeddings().weight, embedding)


def test_a_tied_head_allows_a_rotated_stream_only_where_the_last_norm_is_constant():
    model = build("llama-tied")
    before, stream = logits_of(model), find_neighbours(model).stream
    rotation = random_rotation(48, seed=0)
    with pytest.raises(ModelError, match="head and embedding are one weight"):
        rotate_stream(model, stream, rotation)
    assert torch.equal(logits_of(model), before)
    model.model.norm.weight.fill_(1.5)
    before = logits_of(model)
    rotate_stream(model, stream, rotation)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert_same(model, before)


def test_layer_norms_have_no_stream_to_rotate():
    assert find_neighbours(build("gpt2")).stream is None


def test_a_model_of_a_type_that_is_not_known_is_refused():
    with pytest.raises(ModelError, match="its type of model is mixtral, and known are llama"):
        find_neighbours(build("mixtral"))


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ModelError, match="without a head"):
        find_neighbours(build("llama").model)


@pytest.mark.parametrize("channels", [12, 24])
def test_a_change_of_the_channels_changes_their_covariance(channels):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, channels, generator=generator, dtype=torch.float64)
    error = torch.randn(7, channels, generator=generator, dtype=torch.float64)
    change = Change(
        scale=torch.rand(channels, generator=generator, dtype=torch.float64) + 0.5,
        rotation=random_rotation(12, seed=4),
    )
    changed = change.maker(inputs)
    torch.testing.assert_close(change.reader(error) @ changed.T, error @ inputs.T)
    torch.testing.assert_close(change.covariance(inputs.T @ inputs), changed.T @ changed)
