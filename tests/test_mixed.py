"""Experts of one tensor in several schemes: each is multiplied as it is packed in its own."""

import copy

import pytest
import torch
from torch import Tensor, nn

from bitplan.apply import arrange_layers, held_bytes, pack_layers
from bitplan.composed import hold
from bitplan.expert import Expert
from bitplan.footprint import scheme_bytes
from bitplan.formats import Packed
from bitplan.mixed import MixedWeight
from bitplan.models import find_layers, weight_of
from bitplan.schema import Kind, Scheme
from rendered import one, random

MODELS = ["mixtral", "gpt-oss", "llama4", "qwen-moe"]
SCHEMES = ["int4g32", "int8s", "nf4g32", "int4g32", "int3g16+2%int8", "bf16"]
"""Of six experts."""
PLACES = [[0, 3], [1], [2], [4], [5]]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
WAYS = pytest.mark.parametrize("transposed", [False, True], ids=["out-in", "in-out"])
TOKENS = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(1))


def held(dtype: torch.dtype, *, transposed: bool = False) -> tuple[MixedWeight, Tensor]:
    """Six experts [48, 72], laid out, and their dense weights as the model reads them."""
    packed = [one(random(48, 72, seed=i), name, "rtn") for i, name in enumerate(SCHEMES)]
    stacks = [Packed.stacked([packed[i] for i in some], len(some)) for some in PLACES]
    settings = {"compute_dtype": dtype, "transposed": transposed}
    mixed = MixedWeight([hold(stack, **settings) for stack in stacks], PLACES)
    mixed.arrange()
    dense = torch.stack([expert.decode(dtype) for expert in packed])
    return mixed, dense.transpose(1, 2) if transposed else dense


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


@DTYPES
@WAYS
def test_each_expert_s_product_is_that_of_its_decoded_weight(transposed, dtype):
    experts, dense = held(dtype, transposed=transposed)
    assert experts.shape == (6, 48, 72)
    assert experts.dtype == dtype
    inputs = random(3, 72, seed=9).to(dtype)
    for index in (*range(6), -1, torch.tensor(4)):
        matrix, way = experts[index], dense[index] if transposed else dense[index].t()
        found = inputs @ matrix if transposed else nn.functional.linear(inputs, matrix)
        assert found.dtype == dtype
        assert relative_error(found, inputs.double() @ way.double()) < TOLERANCE[dtype]
    with pytest.raises(IndexError):
        experts[6]
    # The one that is kept dense is a tensor.
    assert [isinstance(expert, Expert) for expert in experts] == [True] * 5 + [False]


@WAYS
def test_in_anything_else_they_are_dense(transposed):
    experts, dense = held(torch.bfloat16, transposed=transposed)
    torch.testing.assert_close(experts[torch.tensor([2, 0])], dense[[2, 0]])
    torch.testing.assert_close(experts[1:], dense[1:])
    torch.testing.assert_close(torch.add(experts, 1), dense + 1)


@DTYPES
def test_all_at_once_each_is_multiplied_with_inputs_of_its_own(dtype):
    experts, dense = held(dtype, transposed=True)
    inputs = random(6, 5, 72, seed=1).to(dtype)
    expected = inputs.double() @ dense.double()
    for output in (torch.bmm(inputs, experts), inputs @ experts):
        assert relative_error(output, expected) < TOLERANCE[dtype]


def test_sorted_tokens_are_multiplied_each_with_its_own():
    experts, dense = held(torch.float32)
    ends = torch.tensor([2, 2, 3, 6, 7, 9])
    inputs = random(9, 72, seed=1).requires_grad_()
    found = experts.multiply_sorted(inputs, ends)
    own = dense[[0, 0, 2, 3, 3, 3, 4, 5, 5]]
    assert relative_error(found, torch.einsum("ti,toi->to", inputs, own)) < 1e-5
    found.sum().backward()
    assert relative_error(inputs.grad, own.sum(1)) < 1e-5


def test_it_is_saved_as_it_is_stored_and_moves_to_another_dtype():
    experts, _ = held(torch.float32)
    state = experts.state_dict()
    assert {"0.codes", "1.scale", "3.columns", "3.base.codes", "4.weight"} <= state.keys()
    assert held_bytes(experts) == sum(tensor.nbytes for tensor in state.values())
    assert held_bytes(experts) == sum(scheme_bytes((48, 72), Scheme.parse(s)) for s in SCHEMES)
    again = copy.deepcopy(experts).to(torch.bfloat16)
    assert again.dtype == torch.bfloat16
    assert again.packed(1).tensors["scale"].dtype == torch.bfloat16
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, state[name])
    told = "[6, 48, 72], 2 int4g32, 1 int8s, 1 nf4g32, 1 int3g16+2%int8, 1 bf16"
    assert experts.extra_repr() == told


def laid_out(
    name: str, dtype: torch.dtype, tiny_model, names: tuple[str, ...]
) -> tuple[nn.Module, nn.Module]:
    """A model whose experts have schemes in turn, and the same with what they decode to."""
    model = tiny_model(name, dtype)
    twin, schemes, weights = copy.deepcopy(model), {}, {}
    twin.set_experts_implementation("eager")
    for layer in find_layers(model, experts="each"):
        if layer.kind is Kind.EXPERTS:
            scheme = names[len(schemes) % len(names)]
            weights[layer] = one(weight_of(model, layer), scheme, "rtn")
            schemes[layer] = Scheme.parse(scheme)
            weight_of(twin, layer).copy_(weights[layer].decode(dtype))
    pack_layers(model, schemes, lambda layer, _: weights[layer])
    assert any(isinstance(module, MixedWeight) for module in model.modules())
    return model, twin


@DTYPES
@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_what_its_decoded_weights_say(name, dtype, tiny_model):
    model, dense = laid_out(name, dtype, tiny_model, ("int4g32", "int8s", "int3g16"))
    with torch.no_grad():
        found, expected = model(TOKENS).logits, dense(TOKENS).logits
    assert relative_error(found, expected) < {torch.float32: 2e-6, torch.bfloat16: 3e-2}[dtype]
    assert arrange_layers(model) is model
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, found)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_generates_and_learns(name, tiny_model):
    both = laid_out(name, torch.float32, tiny_model, ("int8s", "int8g32"))
    tokens = [m.generate(TOKENS, max_new_tokens=6, do_sample=False) for m in both]
    assert torch.equal(*tokens)
    slopes = []
    for model in both:
        inputs = model.get_input_embeddings()(TOKENS).detach().requires_grad_()
        model(inputs_embeds=inputs).logits.square().sum().backward()
        slopes.append(inputs.grad)
    assert relative_error(*slopes) < 1e-5


def test_an_expert_that_is_to_stay_as_it_is_needs_no_rendering(tiny_model):
    model = tiny_model("mixtral", torch.bfloat16)
    layers = [one for one in find_layers(model, experts="each") if one.kind is Kind.EXPERTS]
    keep = Scheme.parse("bf16")
    before = {layer: weight_of(model, layer).clone() for layer in layers}
    schemes = {layer: Scheme.parse("int4g32") if layer.expert == 1 else keep for layer in layers}

    def packed_of(layer, scheme):
        assert scheme != keep
        return one(weight_of(model, layer), str(scheme), "rtn")

    pack_layers(model, schemes, packed_of)
    for layer, dense in before.items():
        experts = model.get_submodule(layer.parameter)
        assert [len(some) for some in experts.experts] == [2, 1]
        if layer.expert != 1:
            assert torch.equal(experts[layer.expert], dense)
    # Where all stay, nothing is packed.
    model = tiny_model("mixtral", torch.bfloat16)
    pack_layers(model, dict.fromkeys(layers, keep), packed_of)
    assert isinstance(model.get_submodule("model.layers.0.mlp.experts").down_proj, nn.Parameter)


def test_a_compiler_takes_one_expert_as_a_product():
    experts, dense = held(torch.float32)
    holder = nn.Module()
    holder.experts = experts

    def run(inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, holder.experts[3]) + inputs.sum()

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    inputs = random(3, 72, seed=1)
    assert relative_error(compiled(inputs), inputs @ dense[3].t() + inputs.sum()) < 1e-5
