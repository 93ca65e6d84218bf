"""A transform folded into the model: recorded in table and plan, and the same wherever applied."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from bitplan import Budget, Plan, allocate, apply_plan, describe, measure
from bitplan.apply import held_bytes
from bitplan.calibration import Sizes
from bitplan.errors import CalibrationError, InputError, ModelError
from bitplan.evaluate import compare, make_reference
from bitplan.export import save
from bitplan.pipeline import Settings
from bitplan.progress import quiet

SETTINGS = {
    "sizes": Sizes(calibration=12, search=4, held_out=6, length=16),
    "schemes": ["int3g16", "int8s", "bf16"],
    "refine_tokens": 0,
    "verify": False,
}
TOKENS = torch.randint(3, 96, (22, 16), generator=torch.Generator().manual_seed(1))
each = pytest.mark.parametrize("transform", ["awq", "hadamard", "omniquant"])


def half(model):
    found = describe(model)
    return Budget(bytes=(found.smallest_bytes + found.bytes) // 2)


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def spiked(model):
    """With a few channels of large inputs, as real models have."""
    for block in model.model.layers:
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight[[3, 17]] *= 16
    return model


@each
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_plan_gives_the_same_weights_here_there_and_killed(transform, name, tiny_model, tmp_path):
    build = lambda: tiny_model(name, torch.bfloat16)  # noqa: E731
    lent = build()
    before = state_of(lent)
    plan = allocate(
        lent,
        half(lent),
        workdir=tmp_path / "here",
        transform=transform,
        **(SETTINGS | {"verify": name == "llama"}),
    )
    assert same(state_of(lent), before)
    assert plan.provenance.transform == transform
    plan.save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    here = apply_plan(build(), plan, workdir=tmp_path / "here")
    there = apply_plan(build(), plan, workdir=tmp_path / "there")
    assert same(state_of(here), state_of(there))
    assert held_bytes(here) == plan.bytes

    def stop(stage, done, total):
        if stage == "apply":
            raise KeyboardInterrupt

    killed = build()
    with pytest.raises(KeyboardInterrupt):
        apply_plan(killed, plan, workdir=tmp_path / "killed", progress=stop)
    again = apply_plan(build(), plan, workdir=tmp_path / "killed")
    assert same(state_of(again), state_of(here))


@each
def test_what_is_kept_as_it_is_is_folded_too(transform, tiny_model, tmp_path):
    """The model with int8 and bfloat16 weights is near to the one before, so all is consistent."""
    model = tiny_model("llama", torch.bfloat16)
    reference = make_reference(model, TOKENS)
    settings = SETTINGS | {"schemes": ["int8g16", "bf16"]}
    pins = {"*self_attn*": "bf16", "*up_proj": "bf16", "*gate_proj": "int8g16"}
    budget = Budget(bytes=describe(model).bytes - 1)
    plan = allocate(model, budget, workdir=tmp_path, transform=transform, pins=pins, **settings)
    applied = apply_plan(model, plan, workdir=tmp_path)
    assert compare(applied, reference).mean < 0.02


def test_scaled_channels_lose_less_where_some_are_large(tiny_model, tmp_path):
    build = lambda: spiked(tiny_model("llama", torch.bfloat16))  # noqa: E731
    tables = {
        transform: measure(
            build(), workdir=tmp_path, quantizer="rtn", transform=transform, **SETTINGS
        )
        for transform in ("none", "awq", "omniquant")
    }
    losses = {
        transform: sum(
            next(cost.loss for cost in row.costs if str(cost.scheme) == "int3g16")
            for row in table.rows
            if "layers" in row.layer.name
        )
        for transform, table in tables.items()
    }
    dumps = {
        transform: table.provenance.model_dump(exclude={"transform"})
        for transform, table in tables.items()
    }
    for transform in ("awq", "omniquant"):
        assert losses[transform] < 0.9 * losses["none"]
        assert dumps[transform] == dumps["none"]


@pytest.mark.parametrize("transform", ["awq", "omniquant"])
def test_scales_are_kept_where_they_were_found(transform, tiny_model, tmp_path):
    build = lambda: tiny_model("llama", torch.bfloat16)  # noqa: E731
    plan = allocate(
        build(),
        half(build()),
        workdir=tmp_path / "here",
        transform=transform,
        calibration=TOKENS,
        **SETTINGS,
    )
    here = apply_plan(build(), plan, workdir=tmp_path / "here")  # asks for no text
    with pytest.raises(
        CalibrationError, match=f'The scales of the transform "{transform}" are not'
    ):
        apply_plan(build(), plan, workdir=tmp_path / "there")
    there = apply_plan(build(), plan, workdir=tmp_path / "there", calibration=TOKENS)
    assert same(state_of(here), state_of(there))


def test_learning_stopped_in_a_block_goes_on_there(tiny_model, tmp_path):
    def run(name, progress=quiet):
        model = tiny_model("gpt2", torch.bfloat16)
        settings = SETTINGS | {"quantizer": "rtn", "transform": "omniquant"}
        measure(model, workdir=tmp_path / name, progress=progress, **settings).save(
            tmp_path / f"{name}.json"
        )

    def stop(stage, done, total):
        stages.append(stage)
        if stage == "scales" and done > total / 2 and "stopped" not in stages:
            stages.append("stopped")
            raise KeyboardInterrupt

    stages = []
    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", stop)
    [learned] = (tmp_path / "killed").glob("*/scales-*")
    assert {file.name for file in learned.iterdir()} >= {"0000.safetensors", "weights.safetensors"}
    stages[:] = ["stopped"]
    run("killed", stop)
    assert "weigh tokens" not in stages
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    found = [next((tmp_path / name).glob("*/scales-*")) for name in ("killed", "whole")]
    assert found[0].read_bytes() == found[1].read_bytes()


@each
def test_a_saved_model_is_loaded(transform, tiny_model, tiny_folder, tmp_path):
    folder = tiny_folder("llama")
    budget = half(tiny_model("llama", torch.bfloat16))
    plan = allocate(folder, budget, workdir=tmp_path / "work", transform=transform, **SETTINGS)
    applied = apply_plan(folder, plan, workdir=tmp_path / "work")
    save(applied, tmp_path / "saved", plan)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded(TOKENS).logits, applied(TOKENS).logits)


def test_a_plan_that_keeps_everything_has_no_transform(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    before = state_of(model)
    plan = allocate(model, 1.0, workdir=tmp_path, transform="awq", **SETTINGS)
    assert plan.provenance.transform == "none"
    assert same(state_of(apply_plan(model, plan, workdir=tmp_path)), before)


@each
def test_a_model_that_it_cannot_be_folded_into_is_refused_first(transform, tiny_model, tmp_path):
    stages = []
    with pytest.raises(ModelError, match="its type of model is mixtral"):
        measure(
            tiny_model("mixtral", torch.bfloat16),
            workdir=tmp_path,
            transform=transform,
            progress=lambda stage, *_: stages.append(stage),
            **SETTINGS,
        )
    assert set(stages) == {"load"}


def test_an_unknown_transform_is_refused():
    with pytest.raises(InputError, match="no transform 'spin'"):
        replace(Settings(), transform="spin")
