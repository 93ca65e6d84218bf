"""Tuning: what it moves, that it helps, that it goes on where it was, and what it refuses."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from bitplan.apply import held_bytes, pack_layers
from bitplan.compress import render
from bitplan.errors import InputError, ModelError
from bitplan.evaluate import Reference, compare, make_reference
from bitplan.models import find_layers, weight_of
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Scheme
from bitplan.tune import RATE, restore, tune
from bitplan.tune.numbers import numbers_of
from bitplan.tune.recompute import recomputed
from bitplan.tune.state import State


def inputs(sequences: int, seed: int) -> torch.Tensor:
    return torch.randint(3, 96, (sequences, 16), generator=torch.Generator().manual_seed(seed))


def packed(model: nn.Module, scheme: str) -> nn.Module:
    chosen = Scheme.parse(scheme)
    schemes = dict.fromkeys(find_layers(model), chosen)
    return pack_layers(
        model,
        schemes,
        lambda layer, s: render(weight_of(model, layer), [s], quantizer="rtn")[s],
    )


def ground(model: nn.Module, scheme: str) -> tuple[nn.Module, Reference, Reference]:
    """A packed model, and what it said before of some tokens: tuned and judged on the same."""
    lessons, judged = (make_reference(model, inputs(n, seed)) for n, seed in ((8, 0), (8, 0)))
    return packed(model, scheme), lessons, judged


def numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {number.name: number.parameter.detach().clone() for number in numbers_of(model)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("llama-tied", "int2g16"),
        ("llama-tied", "int3"),
        ("llama", "int4g32"),  # a layer of it has a packed matmul
        ("llama", "nf3g16"),
        ("llama", "int3g16d"),
        ("llama-tied", "int2g16+2%int8"),
        ("llama", "int2g16+2%bf16+r2"),
        ("gpt2", "int3g16s"),
        ("mixtral", "int2g16"),
        ("bert", "int3g16"),
        ("mamba", "int2g16"),
    ],
)
def test_the_kl_falls_and_nothing_but_numbers_moves(name, scheme, dtype, tiny_model):
    model, lessons, judged = ground(tiny_model(name, dtype), scheme)
    before, size = {k: v.clone() for k, v in model.state_dict().items()}, held_bytes(model)
    laid_out = [m.implementation for m in model.modules() if isinstance(m, PackedWeight)]
    untuned = compare(model, judged).mean
    found = tune(model, lessons, judged, epochs=6, rate=0.02)
    assert found.before == pytest.approx(untuned, rel=1e-2)
    assert found.after < 0.99 * found.before
    # Matmuls of other layouts add in another order.
    assert compare(model, judged).mean == pytest.approx(found.after, rel=2e-2, abs=1e-5)
    after = model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    inner = (".scale", ".offset", "_step")
    assert all(name.endswith(inner) or after[name].dim() == 1 for name in moved)
    assert any(name.endswith(inner) for name in moved)
    assert held_bytes(model) == size
    assert [m.implementation for m in model.modules() if isinstance(m, PackedWeight)] == laid_out
    assert not any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("share", [0.01, 0.5, 10.0])
def test_near_the_reference_steps_are_smaller_in_proportion(share, tiny_model, monkeypatch):
    model, lessons, judged = ground(tiny_model("llama"), "int2g16")
    far = compare(model, judged).mean / share
    monkeypatch.setattr("bitplan.tune.tuner.FAR", far)
    rates, step = [], State.step
    monkeypatch.setattr(State, "step", lambda *given: (rates.append(given[2]), step(*given)))
    tune(model, lessons, judged, epochs=1)
    assert rates[0] == pytest.approx(RATE * min(1, max(1 / 8, share)), rel=2e-2)


def test_the_same_call_gives_the_same_bytes(tiny_model):
    found = []
    for _ in range(2):
        model, lessons, judged = ground(tiny_model("llama"), "int2g16")
        tune(model, lessons, judged, epochs=2)
        found.append(numbers(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(stop, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("bitplan.tune.descent.SAVE_EVERY_S", 0.0)
    model, lessons, judged = ground(tiny_model("llama"), "int2g16")
    whole = tune(model, lessons, judged, epochs=3)
    expected = numbers(model)

    def stopping(stage: str, done: int, total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    model, lessons, judged = ground(tiny_model("llama"), "int2g16")
    file = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        tune(model, lessons, judged, epochs=3, file=file, progress=stopping)
    model = packed(tiny_model("llama"), "int2g16")
    assert restore(model, file) is None
    told: list[int] = []
    again = tune(
        model, lessons, judged, epochs=3, file=file, progress=lambda _, n, __: told.append(n)
    )
    assert told[0] == stop
    assert again == whole
    assert all(torch.equal(tensor, expected[name]) for name, tensor in numbers(model).items())
    model = packed(tiny_model("llama"), "int2g16")
    assert restore(model, file) == whole
    assert all(torch.equal(tensor, expected[name]) for name, tensor in numbers(model).items())


def test_it_leaves_the_model_as_it_was_best(tiny_model):
    """At a rate far too high every step makes it worse, and it stops after three epochs."""
    model, lessons, judged = ground(tiny_model("llama"), "int4g16")
    before = numbers(model)
    found = tune(model, lessons, judged, epochs=20, rate=3.0)
    assert found.after == found.before
    assert found.steps == 3 * 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in numbers(model).items())


def test_blocks_that_are_computed_again_give_the_same_gradients(tiny_model):
    model, lessons, _ = ground(tiny_model("llama"), "int3g16")
    tokens = lessons.inputs.tensors["input_ids"]
    found, forward = [], vars(model.model.layers[0]).get("forward")
    for room in (math.inf, 0.0):
        runs = 0

        def count(*_: object) -> None:
            nonlocal runs
            runs += 1

        hook = model.model.layers[1].self_attn.register_forward_hook(count)
        parameters = [number.parameter.requires_grad_() for number in numbers_of(model)]
        with recomputed(model, room=room):
            for _ in range(2):
                model(input_ids=tokens).logits.float().square().sum().backward()
        hook.remove()
        found.append((runs, [parameter.grad for parameter in parameters]))
        for parameter in parameters:
            parameter.grad = None
    (plain, expected), (again, gradients) = found
    assert (plain, again) == (2, 4)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert vars(model.model.layers[0]).get("forward") is forward


@pytest.mark.parametrize("epochs", [0, -1, math.inf, math.nan])
def test_epochs_that_are_none(epochs, tiny_model):
    model, lessons, judged = ground(tiny_model("llama"), "int4")
    with pytest.raises(InputError, match="must be above zero"):
        tune(model, lessons, judged, epochs=epochs)


def test_nothing_to_tune(tiny_model):
    model, lessons, judged = ground(tiny_model("llama", torch.bfloat16), "bf16")
    with pytest.raises(InputError, match="There is nothing to tune: every layer is kept"):
        tune(model, lessons, judged, epochs=1)


@pytest.mark.parametrize(("scheme", "scales"), [("mxfp4", set()), ("nvfp4", {"matrix_scale"})])
def test_scales_that_are_bytes_stay(scheme, scales, tiny_model):
    found = [name for name in numbers(packed(tiny_model("llama"), scheme)) if ".weight." in name]
    assert {name.rpartition(".")[2] for name in found} == scales


def test_a_model_whose_outputs_are_not_finite(tiny_model):
    model, lessons, judged = ground(tiny_model("llama"), "int4g16")
    next(numbers_of(model)).parameter.data.fill_(torch.inf)
    with pytest.raises(ModelError, match="not finite"):
        tune(model, lessons, judged, epochs=1)


def test_looks_are_at_the_ends_of_epochs(tiny_model):
    model, lessons, judged = ground(tiny_model("llama"), "int2g16")
    told: list[str] = []

    class Told:
        def __call__(self, stage: str, done: int, total: int) -> None:
            told.append(f"{done} of {total}")

        def remark(self, stage: str, text: str) -> None:
            told.append(text.partition(" ")[0])

    tune(model, lessons, judged, epochs=2.5, progress=Told())
    steps = [f"{done} of 5" for done in range(6)]
    expected = [steps[0], "KL", *steps[1:3], "KL", *steps[3:5], "KL", steps[5], "KL", steps[5]]
    assert told == expected
    assert all(one != two for one, two in pairwise(told[:-2]))
