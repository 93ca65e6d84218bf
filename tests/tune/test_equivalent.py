"""Scales and shifts learned block by block: outputs stay, less is lost, and it goes on."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from bitplan.compress import fold, render
from bitplan.errors import ModelError
from bitplan.models import Inputs, find_layers, find_neighbours, takes_shift, weight_of
from bitplan.schema import Scheme
from bitplan.sensitivity import block_outputs
from bitplan.tune import Equivalents, Lessons, learn_equivalents
from bitplan.tune.blocks import chain_of
from bitplan.tune.changed import ChangedBlock, clipped
from bitplan.tune.reads import seen
from bitplan.tune.streams import Stream

INT3 = Scheme.parse("int3g16")
TOKENS = torch.randint(3, 96, (9, 16), generator=torch.Generator().manual_seed(1))
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def qwen() -> nn.Module:
    """Biases of queries, keys and values, and none behind them."""
    torch.manual_seed(0)
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)).eval()


def biased_llama() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def spiked(model: nn.Module) -> nn.Module:
    """With a few channels of large inputs, as real models have, and of large means."""
    for name, one in model.named_parameters():
        inside = "layers." in name or ".h." in name
        if inside and one.dim() == 1:
            one.detach()[[3, 11]] *= 12
    return model


@pytest.fixture
def build(tiny_model):
    """A model by its name, with channels blown up."""
    others = {"qwen2": qwen, "llama-biases": biased_llama}

    def of(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        model = others[name]().to(dtype) if name in others else tiny_model(name, dtype)
        return spiked(model.requires_grad_(False))

    return of


every = pytest.mark.parametrize("name", ["llama", "qwen2", "llama-biases", "gpt2"])


def lessons_of(model: nn.Module, sequences: int = 9) -> Lessons:
    inputs = Inputs.of(TOKENS[:sequences])
    return Lessons(inputs=inputs, matters=block_outputs(model, inputs))


def learned(model: nn.Module, **settings) -> Equivalents:
    return learn_equivalents(model, lessons_of(model), scheme=INT3, **settings)


def folded(model: nn.Module, found: Equivalents) -> nn.Module:
    return fold(model, "omniquant", scales=found.scales, shifts=found.shifts)


def rounded(model: nn.Module) -> nn.Module:
    """All linears of its blocks, rounded to nearest."""
    for layer in find_layers(model):
        if layer.block is not None:
            weight = weight_of(model, layer)
            weight.copy_(render(weight, [INT3], quantizer="rtn")[INT3].decode(weight.dtype))
    return model


def outputs_of(model: nn.Module) -> torch.Tensor:
    return model(TOKENS).logits.double()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).square().mean() / other.square().mean()).sqrt().item()


def same(one: Equivalents, other: Equivalents) -> bool:
    tensors = one.tensors(), other.tensors()
    return tensors[0].keys() == tensors[1].keys() and all(
        torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0]
    )


@every
def test_less_is_lost_and_outputs_stay(name, build):
    model = build(name)
    before = outputs_of(model)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    plain = distance(outputs_of(rounded(build(name))), before)
    found = learned(model)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert len(found.blocks) == 2
    assert all(one.after < 0.8 * one.before for one in found.blocks), found.blocks
    assert found.scales.keys() == {group.maker for group in find_neighbours(model).groups}
    assert distance(outputs_of(folded(model, found)), before) < 1e-5
    assert distance(outputs_of(rounded(model)), before) < plain


@every
def test_shifts_are_where_biases_take_them(name, build):
    model = build(name)
    groups = find_neighbours(model).groups
    shifted = {group.maker for group in groups if takes_shift(model, group)}
    assert len(shifted) == {"llama": 0, "qwen2": 0, "llama-biases": 2, "gpt2": 6}[name]
    assert learned(model).shifts.keys() == shifted


@every
def test_a_block_that_is_not_rounded_gives_what_it_gave(name, build):
    """Whatever the numbers are: the functional change and the folded one are the same."""
    model = build(name)
    inputs = Inputs.of(TOKENS)
    chain = chain_of(model, inputs)
    given = Stream.begin(chain, inputs)
    stream = Stream.begin(chain, inputs)
    groups = [one for one in find_neighbours(model).groups if chain.place(one.maker) == 0]
    with seen(model, groups, torch.ones(TOKENS.shape)) as reads:
        stream.advance(0)
    block = ChangedBlock(chain, 0, groups=groups, linears=[], reads=reads, scheme=INT3)
    block.begin(0.5, True)
    torch.testing.assert_close(block.run(given, slice(None)), stream.hidden, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clip", [1.0, 0.7])
@pytest.mark.parametrize("columns", [32, 40, 9])
def test_weights_are_rounded_as_they_are_rendered(columns, clip):
    weight = torch.randn(5, columns, generator=torch.Generator().manual_seed(0))
    strengths = torch.full((2, 5, -(-columns // 16)), clip)
    found = clipped(weight, strengths, INT3)
    for start in range(0, columns, 16):
        group, values = weight[:, start : start + 16], found[:, start : start + 16]
        low, high = group.amin(1, keepdim=True) * clip, group.amax(1, keepdim=True) * clip
        grid = low + (high - low) / 7 * torch.arange(8).unsqueeze(1).unsqueeze(1)
        nearest = (grid - group).abs().argmin(0, keepdim=True)
        expected = grid.expand(-1, *group.shape).gather(0, nearest)[0]
        torch.testing.assert_close(values, expected)
    if clip == 1.0:
        decoded = render(weight, [INT3], quantizer="rtn")[INT3].decode()
        assert distance(found, weight) == pytest.approx(distance(decoded, weight), rel=0.1)


@pytest.mark.parametrize("stop", [1, 4, 12, 24])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(stop, build, tmp_path, monkeypatch):
    monkeypatch.setattr("bitplan.tune.descent.SAVE_EVERY_S", 0.0)
    whole = learned(build("gpt2"))
    assert same(learned(build("gpt2")), whole)
    told = []

    def stopping(stage: str, done: int, total: int) -> None:
        told.append((done, total))
        if len(told) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learned(build("gpt2"), folder=tmp_path, progress=stopping)
    again = learned(build("gpt2"), folder=tmp_path, progress=lambda *now: told.append(now[1:]))
    assert told[stop][0] >= told[stop - 1][0] - 1
    assert told[-1][0] == told[-1][1]
    assert same(again, whole)
    assert not list(tmp_path.glob("state-*"))
    assert same(learned(build("gpt2"), folder=tmp_path), whole)


def test_one_sequence_is_learned_from_and_judged_by(build):
    model = build("llama")
    lessons, judged = lessons_of(model, 1).apart(16)
    assert lessons is judged
    found = learn_equivalents(model, lessons, scheme=INT3)
    assert all(one.after < one.before for one in found.blocks)


@pytest.mark.parametrize(("count", "apart"), [(2, 1), (16, 2), (512, 16)])
def test_an_eighth_is_kept_apart(count, apart):
    inputs = Inputs.of(torch.arange(count).unsqueeze(1))
    every = Lessons(inputs=inputs, matters=torch.rand(3, count, 1))
    lessons, judged = every.apart(16)
    assert (len(lessons.inputs), len(judged.inputs)) == (count - apart, apart)
    assert torch.equal(judged.matters, every.matters[:, -apart:])


def test_bfloat16_is_learned_and_float16_that_overflows_is_refused(build):
    found = learned(build("llama", torch.bfloat16))
    assert all(one.after < 0.8 * one.before for one in found.blocks)
    model = build("llama", torch.float16)
    lessons = lessons_of(model)
    for block in model.model.layers:
        block.mlp.down_proj.weight *= 3e4
    with pytest.raises(ModelError, match="not finite"):
        learn_equivalents(model, lessons, scheme=INT3)


@pytest.mark.parametrize("name", ["mixtral", "gemma", "mamba"])
def test_models_whose_neighbours_are_not_known_are_refused(name, tiny_model):
    model = tiny_model(name)
    matters = torch.ones(2, *TOKENS.shape)
    with pytest.raises(ModelError, match="its type of model is"):
        learn_equivalents(model, Lessons(inputs=Inputs.of(TOKENS), matters=matters), scheme=INT3)
