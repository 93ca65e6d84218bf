"""The scheme `none` from the menu to a model that runs without a sublayer."""

import copy

import pytest
import torch
from torch import nn

from bitplan import Budget, Plan, allocate, apply_plan, evaluate, load, measure, save, solve
from bitplan.absent import AbsentWeight
from bitplan.allocator import explain
from bitplan.apply import held_bytes
from bitplan.calibration import Sizes
from bitplan.errors import SchemeError
from bitplan.models import next_token_logits
from bitplan.modules import PackedLinear
from bitplan.report import write_report
from bitplan.schema import CostTable

SETTINGS = {
    "sizes": Sizes(calibration=6, search=4, held_out=4, length=16),
    "schemes": ["int4", "int8s", "bf16", "none"],
    "quantizer": "rtn",
    "estimator": "weight_error",
}
SUBLAYERS = {
    "llama-tied": ["model.layers.0.self_attn", "model.layers.0.mlp", "model.layers.1.self_attn"],
    "gpt2": ["transformer.h.0.attn", "transformer.h.0.mlp", "transformer.h.1.attn"],
}
EVERY = pytest.mark.parametrize(
    ("name", "sublayer"), [(name, one) for name, some in SUBLAYERS.items() for one in some]
)
TOKENS = torch.randint(3, 96, (2, 10), generator=torch.Generator().manual_seed(1))


def table_of(model: nn.Module, workdir) -> CostTable:
    return measure(model, workdir=workdir, **SETTINGS)


def without(model: nn.Module, sublayer: str) -> nn.Module:
    """A copy with all weights of a sublayer zero; biases stay."""
    changed = copy.deepcopy(model)
    for module in changed.get_submodule(sublayer).modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            module.weight.zero_()
    return changed


def plan_without(table: CostTable, sublayer: str) -> Plan:
    return solve(table, Budget(gb=1), pins={"*": "bf16", f"{sublayer}.*": "none"})


@EVERY
def test_a_packed_model_without_a_sublayer_is_the_one_with_zeros_there(
    name, sublayer, tiny_model, tmp_path
):
    model = tiny_model(name, torch.bfloat16)
    zeros = without(model, sublayer)
    plan = plan_without(table_of(model, tmp_path), sublayer)
    packed = apply_plan(model, plan, workdir=tmp_path)
    assert sum(isinstance(module, AbsentWeight) for module in packed.modules()) in (2, 3, 4)
    assert held_bytes(packed) == plan.bytes
    assert torch.equal(next_token_logits(packed, TOKENS), next_token_logits(zeros, TOKENS))
    folder = save(packed, tmp_path / "saved", plan)
    for loaded in (load(folder), type(model).from_pretrained(folder)):
        assert held_bytes(loaded) == plan.bytes
        assert torch.equal(next_token_logits(loaded, TOKENS), next_token_logits(zeros, TOKENS))


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # peft knows dense layers alone
@pytest.mark.filterwarnings("ignore::FutureWarning")  # and old names of transformers
def test_adapters_stand_beside_what_is_left_out(tiny_model, tmp_path):
    peft = pytest.importorskip("peft")
    model = tiny_model("llama-tied", torch.bfloat16)
    plan = plan_without(table_of(model, tmp_path), "model.layers.0.self_attn")
    settings = peft.LoraConfig(r=2, target_modules=["v_proj"])
    settings._register_custom_module({PackedLinear: peft.tuners.lora.Linear})
    adapted = peft.get_peft_model(apply_plan(model, plan, workdir=tmp_path), settings)
    adapted(input_ids=TOKENS, labels=TOKENS).loss.backward()
    slopes = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
    # What nothing reads learns nothing.
    assert {".layers.0." in name for name, slope in slopes.items() if slope is None} <= {True}
    assert any(slope is not None and slope.any() for slope in slopes.values())


@EVERY
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_it_generates_what_the_model_with_zeros_does(name, sublayer, cache, tiny_model, tmp_path):
    model = tiny_model(name, torch.bfloat16)
    zeros = without(model, sublayer)
    packed = apply_plan(model, plan_without(table_of(model, tmp_path), sublayer), workdir=tmp_path)
    settings = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
    wanted = zeros.generate(TOKENS, use_cache=False, **settings)
    assert torch.equal(
        packed.generate(TOKENS, cache_implementation=cache, disable_compile=True, **settings),
        wanted,
    )


def test_a_tight_budget_leaves_sublayers_out_and_the_plan_is_whole(tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    table = table_of(model, tmp_path)
    embedding = min(cost.bytes for cost in table.rows[0].costs)
    smallest = solve(table, Budget(bytes=table.rest_bytes + embedding))
    gone = {name for name, scheme in smallest.schemes.items() if scheme.is_none}
    assert gone == {layer for one in table.sublayers for layer in one.layers}
    packed = apply_plan(tiny_model("llama-tied", torch.bfloat16), smallest, workdir=tmp_path)
    assert held_bytes(packed) == smallest.bytes
    text = str([reason.why for reason in explain(table, smallest).reasons])
    assert "left out, with all of its sublayer" in text
    write_report(tmp_path / "report.html", smallest, table)
    assert "none" in (tmp_path / "report.html").read_text()


def test_allocate_measures_plans_with_and_without_what_hardly_matters(tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    model.get_submodule("model.layers.1.mlp.down_proj").weight.mul_(1e-3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    table = table_of(model, tmp_path)
    budget = Budget(bytes=solve(table, Budget(gb=1), pins={"*": "int4"}).bytes + 200)
    solved = solve(table, budget)
    gone = {name for name, scheme in solved.schemes.items() if scheme.is_none}
    assert gone == {f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")}
    settings = {**SETTINGS, "workdir": tmp_path, "refine_tokens": 4_000}
    plan = allocate(model, budget, **settings)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert plan.bytes <= budget.total_bytes
    measured = {one.name: one.kl for one in (plan.evidence.plan, *plan.evidence.others)}
    assert "with nothing left out" in measured
    assert plan.evidence.plan.kl < measured["with nothing left out"]
    assert {name for name, scheme in plan.schemes.items() if scheme.is_none} == gone
    # One that leaves out something else is measured beside them.
    other = solve(table, budget, pins={"*.0.self_attn.*": "none"})
    again = allocate(model, budget, start=other, **settings)
    assert "given" in {one.name for one in again.evidence.others}


def test_an_applied_plan_is_evaluated_and_tuned(tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    plan = solve(
        table_of(model, tmp_path),
        Budget(gb=1),
        pins={"*": "int8s", "model.layers.0.mlp.*": "none"},
    )
    packed = apply_plan(
        tiny_model("llama-tied", torch.bfloat16), plan, workdir=tmp_path, tune_epochs=1
    )
    found = evaluate(packed, reference=model, text=TOKENS)
    assert found.model.kl > 0
    assert held_bytes(packed) == plan.bytes


def test_models_whose_sublayers_are_not_known_are_refused_before_measuring(tiny_model, tmp_path):
    with pytest.raises(SchemeError, match="MixtralForCausalLM"):
        measure(tiny_model("mixtral", torch.bfloat16), workdir=tmp_path, **SETTINGS)
    with pytest.raises(SchemeError, match="MixtralForCausalLM"):
        allocate(tiny_model("mixtral", torch.bfloat16), 1.0, workdir=tmp_path, **SETTINGS)
