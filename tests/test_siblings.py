"""Packed linears that are given the same inputs one after another: one launch, and nothing stale.

Each step of a scenario is told by its launches of several weights and of single ones. A weight of
two planes is two single launches.
"""

import pytest
import torch
from torch import nn

from bitplan.apply import introduce, pack_layers
from bitplan.models import weight_of
from bitplan.modules import PackedLinear
from interpreted import interpret
from interpreted_siblings import SCENARIOS
from plans import plan_for
from rendered import one

ONE, APART = [1, 0], [0, 4]


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    return dict(zip(SCENARIOS, interpret([*SCENARIOS]), strict=True))


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "llama"])
def test_every_product_is_that_of_the_weight_by_itself(found, name):
    assert found[name]["same"]


def test_who_follows_is_learned_once_and_then_all_is_one_launch(found):
    many, precise = APART, [0, 6]  # thirds of inputs, and a table in three parts
    assert found["steps"]["steps"] == [APART, ONE, ONE, ONE, ONE, many, precise, ONE]
    assert found["held"]["steps"][-1] == ONE


def test_a_copy_and_what_was_saved_learn_for_themselves(found):
    assert found["copies"]["steps"] == [APART, ONE] * 3


def test_cross_attention_shares_keys_and_values_and_gives_up_what_is_in_vain(found):
    *first, last = [*found["cross_attention"]["steps"]]
    assert first[:3] == [APART, [1, 1], [1, 1]]
    in_vain = [step for step in first[3:] if step[0] == 2]
    assert len(in_vain) == 3
    assert last == [1, 1]


@pytest.mark.parametrize(
    ("name", "steps"), [("changed_inputs", [APART, [1, 3]]), ("hooks", [APART, ONE, [1, 3]])]
)
def test_other_inputs_are_multiplied_anew(found, name, steps):
    assert found[name]["steps"][: len(steps)] == steps
    assert all(step == APART for step in found[name]["steps"][len(steps) :])


def test_adapters_share_what_is_below_them(found):
    assert found["adapters"]["steps"] == [APART, ONE, ONE, ONE]
    assert found["adapters"]["slopes"] == 2
    assert found["adapters"]["any"]


def test_gradients_and_inference_tensors_are_each_products_own(found):
    assert found["gradients"]["steps"] == [APART, ONE, APART]
    assert found["gradients"]["apart"] < 1e-3


def test_nothing_outlives_the_inputs_that_it_was_made_of(found):
    assert (found["held"]["before"], found["held"]["after"]) == (2, 0)


def test_threads_share_nothing(found):
    assert found["threads"]["steps"] == [[0, 0, 8], *[[2, 2, 0]] * 3]


def test_a_compiled_model_has_one_operator_and_no_breaks(found):
    assert found["compiled"]["steps"] == [ONE, ONE, ONE, APART]
    assert found["compiled"]["passes"] == 1


def test_a_model_says_what_its_decoded_weights_say(found):
    assert found["llama"]["error"] < 2e-3
    # Of each of two layers queries, keys and values, gate and up; what is left is single.
    assert found["llama"]["steps"] == [[0, 14], [4, 4], [4, 4]]


def test_packed_linears_that_runtimes_fuse_know_each_other(tiny_model):
    model = tiny_model("llama")
    plan = plan_for(model, ("int8s",))
    weights = {c.layer: one(weight_of(model, c.layer), "int8s", "rtn") for c in plan.choices}
    layers = {layer: layer.fuse for layer in weights}
    pack_layers(model, dict.fromkeys(weights, plan.choices[0].scheme), lambda at, _: weights[at])
    modules = {name: m for name, m in model.named_modules() if isinstance(m, PackedLinear)}
    assert {name: module.fuse for name, module in modules.items()} == {
        layer.name: fuse for layer, fuse in layers.items() if layer.name in modules
    }
    for one_of in modules.values():
        for other in modules.values():
            is_family = one_of.fuse is not None and one_of.fuse == other.fuse
            assert (one_of.siblings is other.siblings) == is_family or one_of.siblings is None
    of_block = model.get_submodule("model.layers.0.self_attn")
    assert of_block.q_proj.siblings is of_block.v_proj.siblings is not None
    assert of_block.o_proj.siblings is None
    of_block.k_proj, of_block.v_proj = nn.Identity(), nn.Identity()
    introduce(model)
    assert of_block.q_proj.siblings is None


@pytest.mark.gpu
@pytest.mark.parametrize("is_compiled", [False, True])
def test_one_launch_on_a_device(is_compiled):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA or ROCm device")
    from interpreted_several import counted
    from interpreted_siblings import Attention, packed

    model = Attention().requires_grad_(False)
    packed(model)
    model = model.cuda()
    for module in model.modules():
        if isinstance(module, PackedLinear):
            module.weight.lay_out("triton")
    run = torch.compile(model, fullgraph=True) if is_compiled else model
    for step in range(4):
        x = torch.randn(1, 2, 64, device="cuda", dtype=torch.bfloat16)
        counts = counted()
        outputs = run(x)
        launches = counts()
        assert (launches["launches"] == 1) == (is_compiled or step > 0)
        for linear, output in zip(model.children(), outputs, strict=True):
            dense = linear.weight.packed().decode().double()
            expected = x.double() @ dense.t()
            expected = expected if linear.bias is None else expected + linear.bias.double()
            assert ((output - expected).norm() / expected.norm()).item() < 2e-2
