"""A scheme for every expert: found by what each costs, applied, saved and loaded as planned."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from bitplan import Budget, Plan, allocate, apply_plan, describe, measure
from bitplan.apply import held_bytes
from bitplan.calibration import Sizes
from bitplan.errors import InputError, ModelError, PlanError
from bitplan.export import load, save
from bitplan.mixed import MixedWeight
from bitplan.models import find_layers
from bitplan.pipeline import run_apply
from bitplan.schema import Kind

TOKENS = torch.randint(3, 90, (56, 16), generator=torch.Generator().manual_seed(5))
SETTINGS = {
    "calibration": TOKENS,
    "sizes": Sizes(calibration=40, search=4, held_out=6, length=16),
    "schemes": ["int2g32", "int3g32", "int4g32", "int8s", "bf16"],
    "experts": "each",
    "refine_tokens": 0,
}


def budget_of(model: nn.Module, share: float = 0.25) -> Budget:
    found = describe(model)
    return Budget(bytes=int(found.smallest_bytes + share * (found.bytes - found.smallest_bytes)))


def favouring(tiny_model) -> nn.Module:
    """Of each block's experts nearly all depends on the first, and nothing on the last."""
    model = tiny_model("gpt-oss", torch.bfloat16)
    for block in model.model.layers:
        block.mlp.router.bias.copy_(torch.tensor([9.0, 0.0, -99.0]))
    return model


def said(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS[:2]).logits


def expert_bytes(plan: Plan) -> dict[int, int]:
    """Of all blocks and weights, by the number of the expert."""
    found = dict.fromkeys(range(3), 0)
    for choice in plan.choices:
        if choice.layer.expert is not None:
            found[choice.layer.expert] += choice.bytes
    return found


@pytest.fixture
def planned(tiny_model, tmp_path) -> Plan:
    model = favouring(tiny_model)
    return allocate(model, budget_of(model), workdir=tmp_path / "work", verify=False, **SETTINGS)


def test_bits_go_to_the_experts_that_are_used(tiny_model, tmp_path):
    model = favouring(tiny_model)
    table = measure(model, workdir=tmp_path, **SETTINGS)
    losses = {row.layer.name: row.costs[0].loss for row in table.rows}
    for block in range(2):
        for name in ("gate_up_proj", "down_proj"):
            path = f"model.layers.{block}.mlp.experts.{name}"
            assert losses[f"{path}.0"] > 10 * losses[f"{path}.1"] > 0
    shares = {row.layer.name: row.layer.tokens for row in table.rows}
    assert shares["model.layers.1.mlp.experts.down_proj.0"] == 1
    plan = allocate(model, budget_of(model), workdir=tmp_path, **SETTINGS)
    assert plan.bytes <= plan.budget_bytes
    assert plan.evidence.plan.kl <= plan.evidence.uniform.kl
    assert expert_bytes(plan)[0] > expert_bytes(plan)[1]
    together = {**SETTINGS, "experts": "together"}
    assert measure(model, workdir=tmp_path, **together).provenance.model_digest == (
        table.provenance.model_digest
    )


def test_what_each_costs_is_what_all_of_them_cost(tiny_model, tmp_path):
    """Where every token has every expert."""
    model = tiny_model("mixtral")
    for block in model.model.layers:
        block.mlp.gate.top_k = block.mlp.gate.weight.shape[0]
    settings = {**SETTINGS, "estimator": "output_error", "quantizer": "rtn", "schemes": ["int4g32"]}
    sums = []
    for experts in ("together", "each"):
        table = measure(model, workdir=tmp_path, **{**settings, "experts": experts})
        found: dict[str, float] = {}
        for row in table.rows:
            name = row.layer.parameter
            found[name] = found.get(name, 0.0) + row.costs[0].loss
        sums.append(found)
    assert sums[0].keys() == sums[1].keys()
    for name, loss in sums[0].items():
        assert sums[1][name] == pytest.approx(loss, rel=1e-4)


def test_the_plan_is_held_saved_and_loaded_to_the_byte(planned, tiny_model, tmp_path):
    packed = apply_plan(favouring(tiny_model), planned, workdir=tmp_path / "work")
    assert any(isinstance(module, MixedWeight) for module in packed.modules())
    assert held_bytes(packed) == planned.bytes
    save(packed, tmp_path / "small", planned)
    from_pretrained = transformers.AutoModelForCausalLM.from_pretrained
    first = from_pretrained(tmp_path / "small")
    first.save_pretrained(tmp_path / "again")
    for loaded in (load(tmp_path / "small"), first, from_pretrained(tmp_path / "again")):
        assert held_bytes(loaded) == planned.bytes
        assert torch.equal(said(loaded), said(packed))
    assert Plan.from_json(planned.to_json()) == planned


def test_another_machine_renders_the_same(planned, tiny_model, tmp_path):
    given = {"calibration": TOKENS}
    here = apply_plan(favouring(tiny_model), planned, workdir=tmp_path / "work")
    there = apply_plan(favouring(tiny_model), planned, workdir=tmp_path / "there", **given)
    ours, theirs = here.state_dict(), there.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_plan_of_each_is_not_for_a_model_of_more_experts(planned):
    config = transformers.GptOssConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    model = transformers.GptOssForCausalLM(config).bfloat16()
    with pytest.raises(PlanError, match=r"lacks layers of the model: .*experts\.gate_up_proj\.3"):
        apply_plan(model, planned)


def test_a_folder_that_lacks_a_part_of_a_stack_is_refused(planned, tiny_model, tmp_path):
    packed = apply_plan(favouring(tiny_model), planned, workdir=tmp_path / "work")
    save(packed, tmp_path, planned)
    path = next(name for name, one in packed.named_modules() if isinstance(one, MixedWeight))
    state = load_file(tmp_path / "model.safetensors")
    del state[f"{path}.1.codes"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for way in (load, transformers.AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ModelError, match=rf"{path}.1 has [\d,]+ bytes, but its plan says"):
            way(tmp_path)


def test_one_scheme_may_be_asked_for_all_experts_of_a_block(tiny_model, tmp_path):
    model = favouring(tiny_model)
    plan = allocate(
        model,
        budget_of(model),
        workdir=tmp_path,
        verify=False,
        fuse=True,
        **{**SETTINGS, "schemes": ["int2g16", "int3g16", "int4g16", "int8s"]},
    )
    for block in range(2):
        schemes = {
            choice.scheme
            for choice in plan.choices
            if choice.layer.kind is Kind.EXPERTS and choice.layer.block == block
        }
        assert len(schemes) == 1


@pytest.mark.parametrize("experts", ["each", "together"])
def test_blocks_and_scales_are_trained(experts, tiny_model, tmp_path):
    build = lambda: tiny_model("mixtral", torch.float32)  # noqa: E731
    settings = {**SETTINGS, "experts": experts, "schemes": ["int2g32", "int3g32", "int8s"]}
    plan = allocate(
        build(),
        budget_of(build(), 0.1),
        workdir=tmp_path,
        verify=False,
        **settings,
    )
    applied = run_apply(
        build(), plan, workdir=tmp_path, calibration=TOKENS, block_epochs=2, tune_epochs=2
    )
    assert applied.blocks.windows == 2
    assert applied.blocks.error_after < applied.blocks.error_before
    assert applied.tuning.kl_after <= applied.tuning.kl_before
    assert held_bytes(applied.model) == plan.bytes


def test_layers_are_told_by_their_expert(tiny_model):
    model = tiny_model("qwen-moe")
    found, whole = describe(model, experts="each"), describe(model)
    assert found.bytes == whole.bytes
    assert found.smallest_bytes == whole.smallest_bytes
    assert [s.layer for s in found.layers] == list(find_layers(model, experts="each"))
    assert len(found.layers) == len(whole.layers) + 2 * 2 * (4 - 1)
    with pytest.raises(InputError, match=r"experts is 'all'. Choose together \(one scheme"):
        describe(model, experts="all")
    with pytest.raises(InputError, match="experts is 'all'"):
        allocate(model, 1.0, experts="all")


def test_a_pin_may_name_one_expert(tiny_model, tmp_path):
    model = favouring(tiny_model)
    name = "model.layers.1.mlp.experts.down_proj.2"
    plan = allocate(
        model,
        budget_of(model),
        workdir=tmp_path,
        verify=False,
        pins={name: "int8s"},
        **SETTINGS,
    )
    assert str(plan.schemes[name]) == "int8s"
