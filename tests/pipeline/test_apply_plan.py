"""Apply a plan where it was made, on another machine, and to models that it was not made for."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitplan import Budget, Plan, allocate, apply_plan, describe
from bitplan.allocator import plan_of
from bitplan.apply import held_bytes
from bitplan.calibration import Sizes
from bitplan.errors import CalibrationError, ModelError, PlanError, SchemeError
from bitplan.pipeline import run

SETTINGS = {
    "sizes": Sizes(calibration=40, search=4, held_out=6, length=16),
    "schemes": ["int2", "int3", "int4", "int8s", "bf16"],
    "refine_tokens": 0,
    "verify": False,
}


def plan_for(model: object, workdir: Path, **settings: object) -> Plan:
    found = describe(model) if isinstance(model, nn.Module) else None
    budget = 40_000 if found is None else (found.smallest_bytes + found.bytes) // 2
    return allocate(model, Budget(bytes=budget), workdir=workdir, **{**SETTINGS, **settings})


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
@pytest.mark.parametrize("quantizer", ["gptq", "clip", "rtn"])
def test_sampled_calibration_gives_the_same_bytes_on_another_machine(
    name, quantizer, tiny_model, tmp_path
):
    build = lambda: tiny_model(name, torch.bfloat16)  # noqa: E731
    plan = plan_for(build(), tmp_path / "here", quantizer=quantizer)
    assert len({str(scheme) for scheme in plan.schemes.values()}) > 1
    here = apply_plan(build(), plan, workdir=tmp_path / "here")
    there = apply_plan(build(), plan, workdir=tmp_path / "there")
    assert same(state_of(here), state_of(there))
    assert held_bytes(here) == held_bytes(there) == plan.bytes
    tokens = torch.randint(3, 96, (2, 16), generator=torch.Generator().manual_seed(1))
    assert torch.equal(here(input_ids=tokens).logits, there(input_ids=tokens).logits)


def test_text_calibration_asks_for_its_text_on_another_machine(
    tiny_model, tiny_tokenizer, tiny_documents, tmp_path
):
    build = lambda: tiny_model("llama-tied", torch.bfloat16)  # noqa: E731
    path = tmp_path / "words.jsonl"
    path.write_text("\n".join(map(json.dumps, tiny_documents)))
    plan = plan_for(build(), tmp_path / "here", calibration=path, tokenizer=tiny_tokenizer)
    assert plan.provenance.calibration == "words.jsonl, 60 documents, seed 0"
    here = apply_plan(build(), plan, workdir=tmp_path / "here")
    with pytest.raises(CalibrationError, match=r"calibrated on \(words.jsonl, .*Give that text"):
        apply_plan(build(), plan, workdir=tmp_path / "there")
    with pytest.raises(CalibrationError, match="not the tokens that the plan was calibrated on"):
        apply_plan(
            build(),
            plan,
            workdir=tmp_path / "there",
            calibration=tiny_documents[:50],
            tokenizer=tiny_tokenizer,
        )
    there = apply_plan(
        build(),
        plan,
        workdir=tmp_path / "there",
        calibration=tiny_documents,
        tokenizer=tiny_tokenizer,
    )
    assert same(state_of(here), state_of(there))
    # From then on the work is there, too.
    again = apply_plan(build(), plan, workdir=tmp_path / "there")
    assert same(state_of(here), state_of(again))


def test_given_tokens_are_asked_for_on_another_machine(tiny_model, tmp_path):
    build = lambda: tiny_model("gpt2", torch.bfloat16)  # noqa: E731
    tokens = torch.randint(3, 96, (50, 16), generator=torch.Generator().manual_seed(1))
    plan = plan_for(build(), tmp_path / "here", calibration=tokens)
    here = apply_plan(build(), plan, workdir=tmp_path / "here")
    with pytest.raises(CalibrationError, match=r"calibrated on \(tokens \[50, 16\]\)"):
        apply_plan(build(), plan, workdir=tmp_path / "there")
    there = apply_plan(build(), plan, workdir=tmp_path / "there", calibration=tokens)
    assert same(state_of(here), state_of(there))


@pytest.mark.parametrize("quantizer", ["rtn", "hqq"])
def test_quantizers_without_statistics_need_no_text(
    quantizer, tiny_model, tiny_tokenizer, tiny_documents, tmp_path
):
    build = lambda: tiny_model("llama", torch.bfloat16)  # noqa: E731
    plan = plan_for(
        build(),
        tmp_path / "here",
        calibration=tiny_documents,
        tokenizer=tiny_tokenizer,
        quantizer=quantizer,
    )
    here = apply_plan(build(), plan, workdir=tmp_path / "here")
    there = apply_plan(build(), plan, workdir=tmp_path / "there")
    assert same(state_of(here), state_of(there))


def test_narrower_floats_need_no_text(tiny_model, tmp_path):
    """Of a float32 model kept in bfloat16."""
    build = lambda: tiny_model("llama")  # noqa: E731
    tokens = torch.randint(3, 96, (50, 16), generator=torch.Generator().manual_seed(1))
    table = run(
        build(),
        Budget(bytes=describe(build()).bytes - 1),
        workdir=tmp_path / "here",
        **{**SETTINGS, "calibration": tokens, "schemes": ["bf16", "fp32"]},
    ).table
    names = {row.layer.name: "bf16" for row in table.rows}
    plan = plan_of(table, names, budget_bytes=10**6, solver="mine", status="mine")
    there = apply_plan(build(), plan, workdir=tmp_path / "there")
    assert held_bytes(there) == plan.bytes


def test_a_plan_that_keeps_everything_applies_anywhere(tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    before = {name: value.clone() for name, value in state_of(model).items()}
    plan = allocate(model, 1.0, workdir=tmp_path / "here", **SETTINGS)
    there = apply_plan(model, plan, workdir=tmp_path / "there")
    assert same(state_of(there), before)
    assert held_bytes(there) == plan.bytes


def test_a_scheme_without_a_kernel_is_refused_before_the_model_is_changed(tiny_model, tmp_path):
    model = tiny_model("llama")
    plan = plan_for(model, tmp_path, schemes=["ternary2g16d", "fp32"])
    before = {name: value.clone() for name, value in state_of(model).items()}
    with pytest.raises(SchemeError, match=r"^No kernel on cpu multiplies \d+ of the layers"):
        apply_plan(model, plan, workdir=tmp_path, strict=True)
    assert same(state_of(model), before)


def test_other_samples_than_those_of_the_plan_are_explained(tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    plan = plan_for(model, tmp_path / "here")
    made = plan.provenance.model_copy(update={"calibration_digest": "0" * 64})
    with pytest.raises(CalibrationError, match="This machine or version of torch draws others"):
        apply_plan(model, plan.model_copy(update={"provenance": made}), workdir=tmp_path / "there")


def renamed(plan: Plan) -> Plan:
    first = plan.choices[0]
    other = first.model_copy(update={"layer": first.layer.model_copy(update={"name": "other"})})
    return plan.model_copy(update={"choices": (other, *plan.choices[1:])})


def shortened(plan: Plan) -> Plan:
    return plan.model_copy(update={"choices": plan.choices[1:]})


def reshaped(plan: Plan) -> Plan:
    first = plan.choices[0]
    layer = first.layer.model_copy(update={"shape": (95, 32)})
    other = first.model_copy(update={"layer": layer})
    return plan.model_copy(update={"choices": (other, *plan.choices[1:])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shortened, "lacks layers of the model: model.embed_tokens"),
        (renamed, "lacks layers of the model: model.embed_tokens"),
        (reshaped, r"other shapes than the model: model.embed_tokens \[95, 32\] for \[96, 32\]"),
    ],
)
def test_a_plan_of_other_layers_is_refused(change, message, tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    plan = plan_for(model, tmp_path)
    with pytest.raises(PlanError, match=message):
        apply_plan(model, change(plan), workdir=tmp_path)
    assert held_bytes(model) == describe(model).bytes


def test_a_plan_of_another_model_is_refused(tiny_model, tmp_path):
    plan = plan_for(tiny_model("llama-tied", torch.bfloat16), tmp_path)
    with pytest.raises(PlanError, match="other weights of this architecture"):
        apply_plan(tiny_model("llama-tied", torch.bfloat16, seed=1), plan, workdir=tmp_path)
    with pytest.raises(PlanError, match="lacks layers of the model: lm_head"):
        apply_plan(tiny_model("llama", torch.bfloat16), plan, workdir=tmp_path)
    with pytest.raises(PlanError, match="layers"):
        apply_plan(tiny_model("gpt2", torch.bfloat16), plan, workdir=tmp_path)
    with pytest.raises(PlanError, match=r"in bfloat16, but this one is in float32.*bfloat16\)"):
        apply_plan(tiny_model("llama-tied", torch.bfloat16).float(), plan, workdir=tmp_path)
    with pytest.raises(ModelError, match="no folder or file"):
        apply_plan(Path("missing"), plan, workdir=tmp_path)


def test_a_model_that_is_packed_already_is_refused(tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    plan = plan_for(model, tmp_path)
    packed = apply_plan(model, plan, workdir=tmp_path)
    with pytest.raises(PlanError, match="layers that the model lacks"):
        apply_plan(packed, plan, workdir=tmp_path)


@pytest.mark.parametrize("empty", [False, True], ids=["work", "no work"])
def test_an_interrupt_in_any_stage_changes_no_byte(empty, tiny_folder, tmp_path):
    folder = tiny_folder("mixtral")
    plan = plan_for(folder, tmp_path / "here")
    expected = state_of(apply_plan(folder, plan, workdir=tmp_path / "here"))
    calls: list[str] = []
    apply_plan(
        folder, plan, workdir=tmp_path / "told", progress=lambda stage, *_: calls.append(stage)
    )
    assert set(calls) == {"load", "sample", "statistics", "render", "apply"}
    for stage in sorted(set(calls)):
        for occurrence in (1, 2):
            workdir = tmp_path / f"{stage}-{occurrence}" if empty else tmp_path / "here"
            count = 0

            def stop(name: str, done: int, total: int, at: tuple = (stage, occurrence)) -> None:
                nonlocal count
                count += name == at[0]
                if count == at[1]:
                    raise KeyboardInterrupt

            if empty or stage in {"load", "apply"}:
                with pytest.raises(KeyboardInterrupt):
                    apply_plan(folder, plan, workdir=workdir, progress=stop)
            again = apply_plan(folder, plan, workdir=workdir)
            assert same(state_of(again), expected)


def test_work_that_was_lost_or_damaged_is_done_again(tiny_model, tmp_path):
    build = lambda: tiny_model("llama-tied", torch.bfloat16)  # noqa: E731
    plan = plan_for(build(), tmp_path)
    state = state_of(apply_plan(build(), plan, workdir=tmp_path))
    expected = {name: tensor.clone() for name, tensor in state.items()}  # not mapped from files
    weights = sorted(tmp_path.rglob("*weights*/**/*.safetensors"))
    assert len(weights) > 20
    for index, path in enumerate(weights):
        if index % 3 == 0:
            path.unlink()
        elif index % 3 == 1:
            path.write_bytes(path.read_bytes()[:-1])
    assert same(state_of(apply_plan(build(), plan, workdir=tmp_path)), expected)
