"""Tuning in a work folder: what is kept, what it needs, what is said of it."""

import math

import pytest
import torch

from bitplan import Budget, allocate, apply_plan, describe
from bitplan.apply import held_bytes
from bitplan.calibration import Sizes
from bitplan.errors import CalibrationError, InputError
from bitplan.export import load, save
from bitplan.pipeline import run_apply

SETTINGS = {
    "sizes": Sizes(calibration=12, search=4, held_out=6, length=16),
    "schemes": ["int2g16", "int3g16", "int4g16", "bf16"],
    "refine_tokens": 0,
}


def plan_for(build, tmp_path, **settings):
    found = describe(build())
    budget = Budget(bytes=(found.smallest_bytes + found.bytes) // 2)
    return allocate(build(), budget, workdir=tmp_path, **SETTINGS, **settings)


def test_tuned_once_and_read_again(tiny_model, tmp_path):
    build = lambda: tiny_model("llama-tied", torch.bfloat16)  # noqa: E731
    plan = plan_for(build, tmp_path / "work")
    assert plan.evidence is not None
    first = run_apply(build(), plan, workdir=tmp_path / "work", tune_epochs=4)
    assert first.tuning is not None
    assert first.tuning.steps == 12
    assert first.tuning.tokens == 6 * 16
    assert first.tuning.kl_before == pytest.approx(plan.evidence.plan.kl, rel=1e-2)
    assert first.tuning.kl_before != first.tuning.kl_after
    assert held_bytes(first.model) == plan.bytes
    stages = []
    again = run_apply(
        build(),
        plan,
        workdir=tmp_path / "work",
        tune_epochs=4,
        progress=lambda stage, _, __: stages.append(stage),
    )
    assert set(stages) == {"load", "apply"}
    assert again.tuning == first.tuning
    one, two = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    plain = apply_plan(build(), plan, workdir=tmp_path / "work").state_dict()
    assert any(not torch.equal(one[name], plain[name]) for name in one)
    save(first.model, tmp_path / "out", plan)
    loaded = load(tmp_path / "out").state_dict()
    assert all(torch.equal(one[name], loaded[name]) for name in one)


def test_other_epochs_are_another_result_and_one_that_is_damaged_is_made_again(
    tiny_model, tmp_path, caplog
):
    build = lambda: tiny_model("llama", torch.bfloat16)  # noqa: E731
    plan = plan_for(build, tmp_path)
    two = run_apply(build(), plan, workdir=tmp_path, tune_epochs=2)
    one = run_apply(build(), plan, workdir=tmp_path, tune_epochs=1)
    assert (one.tuning.steps, two.tuning.steps) == (3, 6)
    states = sorted(tmp_path.rglob("tuned/*.safetensors"))
    assert len(states) == 2
    for state in states:
        state.write_bytes(state.read_bytes()[:-1] + b"x")
    again = run_apply(build(), plan, workdir=tmp_path, tune_epochs=2)
    assert again.tuning == two.tuning
    assert "is damaged" in caplog.text


def test_text_is_asked_for_where_it_is_needed(tiny_model, tiny_tokenizer, tiny_documents, tmp_path):
    build = lambda: tiny_model("llama", torch.bfloat16)  # noqa: E731
    text = {"calibration": tiny_documents, "tokenizer": tiny_tokenizer}
    plan = plan_for(build, tmp_path / "work", **text)
    with pytest.raises(CalibrationError, match="To tune it takes the text"):
        run_apply(build(), plan, workdir=tmp_path / "work", tune_epochs=1)
    tuned = run_apply(build(), plan, workdir=tmp_path / "work", tune_epochs=1, **text)
    again = run_apply(build(), plan, workdir=tmp_path / "work", tune_epochs=1)
    assert again.tuning == tuned.tuning


@pytest.mark.parametrize("epochs", [-1, math.inf, math.nan])
def test_epochs_that_are_none(epochs, tiny_model, tmp_path):
    build = lambda: tiny_model("llama", torch.bfloat16)  # noqa: E731
    plan = plan_for(build, tmp_path, verify=False)
    with pytest.raises(InputError, match="tune_epochs is"):
        apply_plan(build(), plan, workdir=tmp_path, tune_epochs=epochs)


def test_blocks_are_trained_once_and_read_again(tiny_model, tmp_path):
    build = lambda: tiny_model("llama-tied", torch.bfloat16)  # noqa: E731
    plan = plan_for(build, tmp_path / "work")
    asked = {"workdir": tmp_path / "work", "block_epochs": 3, "tune_epochs": 2}
    first = run_apply(build(), plan, **asked)
    assert first.blocks is not None
    assert first.tuning is not None
    assert first.blocks.windows == 2
    assert 0 < first.blocks.error_after <= first.blocks.error_before
    assert first.blocks.tokens == 6 * 16
    assert first.tuning.kl_before == first.blocks.kl
    assert held_bytes(first.model) == plan.bytes
    stages = set()
    again = run_apply(build(), plan, **asked, progress=lambda *told: stages.add(told[0]))
    assert stages == {"load", "apply"}
    assert (again.blocks, again.tuning) == (first.blocks, first.tuning)
    one, two = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    alone = run_apply(build(), plan, **{**asked, "tune_epochs": 0})
    assert (alone.blocks, alone.tuning) == (first.blocks, None)
    [damaged, *_] = (tmp_path / "work").rglob("blocks/*/0000.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    mended = run_apply(build(), plan, **{**asked, "tune_epochs": 0})
    assert mended.blocks == first.blocks
    assert (damaged.parent / "0000.safetensors").is_file()


@pytest.mark.parametrize(
    "asked", [{"block_epochs": -1}, {"block_epochs": math.nan}, {"block_window": 0}], ids=str
)
def test_block_settings_that_are_none(asked, tiny_model, tmp_path):
    build = lambda: tiny_model("llama", torch.bfloat16)  # noqa: E731
    plan = plan_for(build, tmp_path, verify=False)
    with pytest.raises(InputError, match="must be"):
        apply_plan(build(), plan, workdir=tmp_path, **asked)
