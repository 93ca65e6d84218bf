"""Training block by block: that it helps, what it moves, that it goes on where it was."""

import math

import pytest
import torch
import transformers
from torch import nn

from bitplan.apply import held_bytes, pack_layers
from bitplan.compress import render
from bitplan.errors import InputError, ModelError
from bitplan.formats import Packed
from bitplan.models import Inputs, find_layers, weight_of
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity import block_outputs
from bitplan.tune import Lessons, Tuned, restore_blocks, tune_blocks
from bitplan.tune.latent import Latent


def inputs(sequences: int, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    return Inputs.of(torch.randint(3, 96, (sequences, 16), generator=generator))


def three_blocks() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return transformers.LlamaForCausalLM(config).eval()


def lessons(model: nn.Module, sequences: int, seed: int) -> Lessons:
    tokens = inputs(sequences, seed)
    return Lessons(inputs=tokens, matters=block_outputs(model, tokens))


class Ground:
    """A dense model, the schemes of its layers, and how they are rendered."""

    def __init__(self, model: nn.Module, scheme: str, same: bool = True) -> None:
        self.model = model
        self.schemes = dict.fromkeys(find_layers(model), Scheme.parse(scheme))
        self.lessons = lessons(model, 8, 0)
        self.judged = self.lessons if same else lessons(model, 6, 1)

    def packed_of(self, layer: Layer, scheme: Scheme) -> Packed:
        return render(weight_of(self.model, layer), [scheme], quantizer="rtn")[scheme]

    def pack(self) -> nn.Module:
        return pack_layers(self.model, self.schemes, self.packed_of)

    def train(self, **settings) -> list[Tuned]:
        given = {"epochs": 6, "rate": 0.004, **settings}
        return tune_blocks(
            self.model, self.schemes, self.packed_of, self.lessons, self.judged, **given
        )


def same_state(one: nn.Module, two: nn.Module) -> bool:
    states = one.state_dict(), two.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("llama-tied", "int2g16"),
        ("llama", "int3g16s"),
        ("llama", "int3"),
        ("llama", "nf3g16"),
        ("llama", "int3g16d"),
        ("llama", "int4g16+2:4"),
        ("llama", "int2g16+2%int8"),
        ("gpt2", "int3g16"),
        ("mixtral", "int2g16"),
    ],
)
def test_the_error_falls_in_as_many_bytes(name, scheme, dtype, tiny_model):
    untrained = Ground(tiny_model(name, dtype), scheme).pack()
    before, size = untrained.state_dict(), held_bytes(untrained)
    ground = Ground(tiny_model(name, dtype), scheme)
    found = ground.train()
    assert len(found) == 2
    assert all(one.after < 0.99 * one.before for one in found), found
    after = ground.model.state_dict()
    assert held_bytes(ground.model) == size
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert any(name.endswith(("scale", "scale_step")) for name in moved)
    learns_codes = scheme.startswith("int") and "+" not in scheme
    assert any(name.endswith(".codes") for name in moved) == learns_codes
    assert not any("embed" in name or "wte" in name or "lm_head" in name for name in moved)
    assert not any(p.grad is not None or p.requires_grad for p in ground.model.parameters())
    held = [m for m in ground.model.modules() if isinstance(m, PackedWeight)]
    assert not any("multiply" in vars(weight) for weight in held)
    likewise = [m for m in untrained.modules() if isinstance(m, PackedWeight)]
    assert [m.implementation for m in held] == [m.implementation for m in likewise]


def test_what_is_told_is_the_error_of_the_model_that_is_left(tiny_model):
    reference, ground = tiny_model("llama"), Ground(tiny_model("llama"), "int2g16")
    [_, last] = ground.train()
    outputs = []
    for model in (reference, ground.model):
        hook = model.model.layers[-1].register_forward_hook(lambda *seen: outputs.append(seen[-1]))
        model(**ground.judged.inputs.tensors)
        hook.remove()
    matters = ground.judged.matters[-1].unsqueeze(-1)
    error = ((outputs[1] - outputs[0]).square() * matters).sum()
    assert last.after == pytest.approx((error / (outputs[0].square() * matters).sum()).item(), 1e-3)


def test_all_blocks_of_a_window_are_learned(tiny_model):
    before = Ground(tiny_model("llama"), "int2g16").pack().state_dict()
    ground = Ground(tiny_model("llama"), "int2g16")
    [both] = ground.train(window=2)
    assert both.after < 0.9 * both.before
    after = ground.model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    for block in range(2):
        assert f"model.layers.{block}.mlp.down_proj.weight.codes" in moved


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("stop", [1, 5, 16])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(stop, window, tmp_path, monkeypatch):
    monkeypatch.setattr("bitplan.tune.descent.SAVE_EVERY_S", 0.0)
    build = lambda: Ground(three_blocks(), "int2g16", same=False)  # noqa: E731
    whole = build()
    expected = whole.train(window=window)
    assert len(expected) == 4 - window
    told = []

    def stopping(stage: str, done: int, total: int) -> None:
        told.append((done, total))
        if len(told) == stop:
            raise KeyboardInterrupt

    stopped = build()
    with pytest.raises(KeyboardInterrupt):
        stopped.train(window=window, folder=tmp_path, progress=stopping)
    again = build()
    assert again.train(window=window, folder=tmp_path, progress=lambda *now: told.append(now[1:]))
    assert told[stop][0] >= told[stop - 1][0] - 1
    assert told[-1][0] == told[-1][1]
    assert same_state(again.model, whole.model)
    assert not list(tmp_path.glob("state-*"))
    packed = build().pack()
    assert restore_blocks(packed, tmp_path) == expected
    assert same_state(packed, whole.model)


def test_a_block_that_is_no_better_stays_as_it_was(tiny_model):
    ground = Ground(tiny_model("llama"), "int4g16", same=False)
    found = ground.train(rate=3.0, epochs=9)
    assert all(one.after == one.before and one.steps == 6 for one in found)
    assert same_state(ground.model, Ground(tiny_model("llama"), "int4g16").pack())


@pytest.mark.parametrize("scheme", ["int2g16", "int3g16s", "int4", "int3g16d"])
def test_latent_numbers_begin_at_their_codes_and_lean_to_the_original(scheme):
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    chosen = Scheme.parse(scheme)
    packed = render(weight, [chosen], quantizer="rtn")[chosen]
    held = PackedWeight(packed, compute_dtype=torch.float32)
    latent = Latent(held, weight)
    torch.testing.assert_close(latent.dense(), packed.decode(), rtol=1e-6, atol=1e-6)
    before = held.packed().tensors["codes"].clone()
    latent.write()
    assert torch.equal(held.packed().tensors["codes"], before)
    rest = (latent.parameter - latent.parameter.round()).flatten(1)[:, :40]
    wanted = (weight - packed.decode()).sign()
    assert ((rest.sign() == wanted) | (rest.abs() < 1e-3)).all()


def test_gradients_are_those_of_what_is_not_rounded():
    weight = torch.randn(4, 20, generator=torch.Generator().manual_seed(1))
    chosen = Scheme.parse("int3g16")
    packed = render(weight, [chosen], quantizer="rtn")[chosen]
    held = PackedWeight(packed, compute_dtype=torch.float32)
    latent = Latent(held, weight)
    numbers = [latent.parameter, held.scale, held.offset]
    for one in numbers:
        one.requires_grad_()
    slope = torch.randn(4, 20, generator=torch.Generator().manual_seed(2))
    (latent.dense() * slope).sum().backward()
    smooth = [one.detach().float().requires_grad_() for one in numbers]
    codes = smooth[0] + (smooth[0].round() - smooth[0]).detach()
    dense = codes * smooth[1].unsqueeze(-1) + smooth[2].unsqueeze(-1)
    (dense.flatten(1)[:, :20] * slope).sum().backward()
    for one, other in zip(numbers, smooth, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "settings", [{"epochs": 0}, {"epochs": math.nan}, {"window": 0}, {"rate": -1.0}], ids=str
)
def test_settings_that_are_none(settings, tiny_model):
    with pytest.raises(InputError, match="must be above zero"):
        Ground(tiny_model("llama"), "int4").train(**settings)


def test_blocks_that_stay_as_they_are_have_nothing_to_learn(tiny_model):
    assert Ground(tiny_model("llama", torch.bfloat16), "bf16").train() == []


def test_a_model_that_is_no_chain(tiny_model):
    with pytest.raises(ModelError, match=r"T5.* cannot be run block by block"):
        block_outputs(tiny_model("t5"), inputs(2, 0))
