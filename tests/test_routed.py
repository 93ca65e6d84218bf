"""Experts by tokens that are sorted, as transformers calls them, and one by one elsewhere."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from bitplan.apply import pack_layers
from bitplan.composed import hold
from bitplan.models import weight_of
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Kind
from bitplan.weight import AbstractWeight
from interpreted import interpret
from plans import plan_for
from rendered import one, random

MODELS = ["mixtral", "gpt-oss", "llama4", "qwen-moe"]
TOKENS = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(1))


def packed(name: str, tiny_model) -> tuple[nn.Module, nn.Module]:
    """A model whose experts alone are packed, and the same with the weights that they decode to."""
    model = tiny_model(name)
    twin, schemes, weights = copy.deepcopy(model), {}, {}
    for choice in plan_for(model, ("int8s",)).choices:
        if choice.layer.kind is Kind.EXPERTS:
            weight = one(weight_of(model, choice.layer), "int8s", "rtn")
            weights[choice.layer.name], schemes[choice.layer] = weight, choice.scheme
            weight_of(twin, choice.layer).copy_(weight.decode())
    twin.set_experts_implementation("eager")
    return pack_layers(model, schemes, lambda layer, _: weights[layer.name]), twin


def difference(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.fixture
def grouped(monkeypatch) -> list[int]:
    """Weights say that they take all experts at once; tokens of each product that they made."""
    seen: list[int] = []

    def multiply(weight, inputs, ends):
        seen.append(len(inputs))
        return AbstractWeight.multiply_sorted(weight, inputs, ends)

    monkeypatch.setattr(PackedWeight, "is_grouped", True)
    monkeypatch.setattr(PackedWeight, "multiply_sorted", multiply)
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_a_model_with_sorted_tokens_says_what_its_decoded_weights_say(name, grouped, tiny_model):
    model, dense = packed(name, tiny_model)
    with torch.no_grad():
        assert difference(model(TOKENS).logits, dense(TOKENS).logits) < 2e-6
    # Of 18 tokens each has two experts; of Llama 4 every expert has every token.
    assert grouped == [54 if name == "llama4" else 36] * 4
    slopes = []
    for one_of in (model, dense):
        inputs = model.get_input_embeddings()(TOKENS).detach().requires_grad_()
        one_of(inputs_embeds=inputs).logits.square().sum().backward()
        slopes.append(inputs.grad)
    assert difference(*slopes) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_elsewhere_experts_run_one_by_one(name, tiny_model, monkeypatch):
    model, dense = packed(name, tiny_model)
    monkeypatch.setattr(PackedWeight, "multiply_sorted", None)
    with torch.no_grad():
        assert difference(model(TOKENS).logits, dense(TOKENS).logits) < 2e-6
        again = copy.deepcopy(model)
        assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize("name", ["int4g32", "ternary2g32d", "int3g16+2%int8"])
def test_sorted_tokens_are_multiplied_each_with_its_own(name):
    canonical = one(random(4, 48, 64), name, "rtn")
    experts = hold(canonical, compute_dtype=torch.float32)
    experts.arrange()
    inputs, dense = random(7, 64, seed=1), canonical.decode()
    found = experts.multiply_sorted(inputs, torch.tensor([2, 2, 6, 7]))
    expected = [
        dense[expert] @ row for expert, row in zip([0, 0, 2, 2, 2, 2, 3], inputs, strict=True)
    ]
    assert difference(found, torch.stack(expected)) < 1e-6


@pytest.mark.parametrize("kernel", ["reference", "triton"])
def test_the_way_back_is_that_of_each_expert(kernel):
    canonical = one(random(3, 48, 64), "int4g32", "rtn")
    experts = PackedWeight(canonical, compute_dtype=torch.float32)
    experts.lay_out(kernel)
    inputs = random(5, 64, seed=1).requires_grad_()
    experts.multiply_sorted(inputs, torch.tensor([2, 2, 5])).sum().backward()
    slopes = canonical.decode().sum(1)
    assert difference(inputs.grad, slopes[[0, 0, 2, 2, 2]]) < 1e-5


@pytest.mark.parametrize("order", [1, -1])
def test_transformers_is_told_in_whichever_order_it_is_imported(order):
    lines = ["from bitplan.registered import register; register()"]
    lines += ["from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS as known"]
    lines = [*lines[::order], "assert 'bitplan' in known.valid_keys()"]
    subprocess.run([sys.executable, "-c", "; ".join(lines)], check=True)


def test_models_by_triton_launch_once_for_each_weight_and_say_what_decoded_weights_say():
    names = ["mixtral", "gpt_oss", "llama4_text"]
    for found in interpret([f"experts of {name}" for name in names]):
        # Two layers of two weights each, with three parts of what inputs in float32 are.
        assert found["launches"] == 2 * 2 * 3
        assert found["error"] < 1e-5


def test_models_by_triton_launch_once_for_each_scheme_of_a_weight():
    names = ["mixtral", "gpt_oss", "llama4_text"]
    for found in interpret([f"experts of {name} each" for name in names]):
        assert found["launches"] == 2 * (2 * 2 * 3)
        assert found["error"] < 1e-5
