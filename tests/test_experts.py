"""Experts: multiplied as they are packed, each from its own part of what is laid out for all."""

import copy

import pytest
import torch
from torch import Tensor, nn

from bitplan.apply import arrange_layers, held_bytes, pack_layer, pack_layers
from bitplan.composed import hold
from bitplan.expert import Expert
from bitplan.formats import decode
from bitplan.models import find_layers, weight_of
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Kind, Scheme
from bitplan.weight import AbstractWeight
from plans import plan_for
from rendered import one, random

COMPILED = ("cpu", "dot")
COMPILED_SCHEMES = ["int3g32", "int4g32", "int4g16d", "int8s", "nf4g32", "nvfp4", "mxfp6", "bfp4"]
COMPILED_SCHEMES += ["ternary", "ternaryg16", "ternary2g32", "int4g32+2:4", "bitmod3g16"]
OTHERS = ["ternary2g32d"]
COMPOSED = ["int3g16+2%int8", "int4g32+2%bf16", "nvfp4+2%int8+r4", "ternaryg16+2%bf16+r2"]
# RMS(error) / RMS(expected), as of linears: of the product, and of a model's logits.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
OF_LOGITS = {torch.float32: 2e-6, torch.bfloat16: 3e-2}
MODELS = ["mixtral", "gpt-oss", "llama4", "qwen-moe"]
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
WAYS = pytest.mark.parametrize("transposed", [False, True], ids=["out-in", "in-out"])


def held(
    name: str, dtype: torch.dtype = torch.float32, *, transposed: bool = False
) -> tuple[AbstractWeight, Tensor]:
    """Three experts [48, 72], laid out, and their dense weights as the model reads them."""
    canonical = one(random(3, 48, 72), name, "rtn")
    weight = hold(canonical, compute_dtype=dtype, transposed=transposed)
    weight.arrange()
    dense = canonical.decode(dtype)
    return weight, dense.transpose(1, 2) if transposed else dense


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """A word for each time that the reference decodes a weight, or a layout is undone."""
    seen: list[str] = []

    def told(function, word):
        def call(*args, **keywords):
            seen.append(word)
            return function(*args, **keywords)

        return call

    monkeypatch.setattr(decode, "_read_codes", told(decode._read_codes, "decoded"))
    monkeypatch.setattr(PackedWeight, "packed", told(PackedWeight.packed, "restored"))
    return seen


@DTYPES
@WAYS
@pytest.mark.parametrize("name", COMPILED_SCHEMES + OTHERS + COMPOSED)
def test_the_product_is_that_of_the_decoded_expert(name, transposed, dtype):
    experts, dense = held(name, dtype, transposed=transposed)
    for tokens in (1, 3, 40):
        inputs = random(tokens, 72, seed=1).to(dtype)
        for index in (0, 2, -1, torch.tensor(1)):
            matrix = experts[index]
            assert isinstance(matrix, Expert)
            if transposed:
                bias = 0.0
                outputs = inputs @ matrix, torch.matmul(inputs, matrix), inputs.mm(matrix)
            else:
                bias = random(48, seed=2).to(dtype)
                linear = nn.functional.linear
                outputs = linear(inputs, matrix, bias), linear(inputs, matrix, bias=bias)
            way = dense[index] if transposed else dense[index].t()
            expected = inputs.double() @ way.double() + bias
            for output in outputs:
                assert output.dtype == dtype
                assert relative_error(output, expected) < TOLERANCE[dtype]
    with pytest.raises(IndexError):
        experts[3]
    assert len(list(experts)) == 3


@WAYS
@pytest.mark.parametrize("name", COMPILED_SCHEMES)
def test_an_expert_is_multiplied_and_not_decoded(name, transposed, decoded):
    experts, _ = held(name, transposed=transposed)
    assert isinstance(experts, PackedWeight)
    assert experts.implementation in COMPILED
    decoded.clear()  # laying it out and the expected weights
    for index in range(3):
        if transposed:
            random(1, 72) @ experts[index]
        else:
            nn.functional.linear(random(1, 72), experts[index])
    assert not decoded
    experts[0].sum()
    assert decoded == ["restored", "decoded"]  # the one expert


@WAYS
@pytest.mark.parametrize("name", [*COMPILED_SCHEMES, *OTHERS, *COMPOSED, "bf16"])
def test_in_anything_else_it_is_the_dense_matrix(name, transposed):
    experts, dense = held(name, torch.bfloat16, transposed=transposed)
    for index in (0, torch.tensor(2)):
        matrix, expected = experts[index], dense[index]
        torch.testing.assert_close(2 * matrix + matrix[0] - 1, 2 * expected + expected[0] - 1)
        torch.testing.assert_close(matrix.t(), expected.t())
        torch.testing.assert_close(torch.stack([matrix, expected])[0], expected)
        torch.testing.assert_close(torch.mul(matrix, other=matrix), expected * expected)
        assert (matrix.shape, matrix.dtype) == (expected.shape, torch.bfloat16)
        # The other way round it is no product with the transposed weight.
        inputs = random(2, matrix.shape[0]).bfloat16()
        if transposed:
            found = nn.functional.linear(random(2, 48).bfloat16(), matrix)
            assert found.shape == (2, 72)
        else:
            torch.testing.assert_close(inputs @ matrix, inputs @ expected)
    torch.testing.assert_close(experts[torch.tensor([2, 0])], dense[[2, 0]])
    torch.testing.assert_close(experts[1:], dense[1:])


@DTYPES
@pytest.mark.parametrize("name", [*COMPILED_SCHEMES, *OTHERS, *COMPOSED, "bf16"])
def test_all_at_once_each_is_multiplied_with_inputs_of_its_own(name, dtype, decoded):
    experts, dense = held(name, dtype, transposed=True)
    inputs = random(3, 5, 72, seed=1).to(dtype)
    expected = inputs.double() @ dense.double()
    decoded.clear()
    for output in (torch.bmm(inputs, experts), inputs @ experts, inputs.matmul(experts)):
        assert output.dtype == dtype
        assert relative_error(output, expected) < TOLERANCE[dtype]
    assert not (decoded and name in COMPILED_SCHEMES)
    # What is no batch of experts is multiplied as dense weights are.
    shared = inputs[0] @ experts
    assert relative_error(shared, inputs[0].double() @ dense.double()) < TOLERANCE[dtype]
    with pytest.raises(TypeError, match=type(experts).__name__):
        torch.cat([inputs, experts])


@pytest.mark.parametrize("name", [*COMPILED_SCHEMES, *OTHERS, *COMPOSED])
def test_it_holds_and_saves_what_the_format_says(name):
    canonical = one(random(3, 48, 72), name, "rtn")
    experts, _ = held(name)
    tensors = [*experts.parameters(), *experts.buffers()]
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) == canonical.nbytes
    for state in (experts.state_dict(), experts.packed().tensors):
        assert state.keys() == canonical.tensors.keys()
        for key, tensor in canonical.tensors.items():
            assert state[key].dtype == tensor.dtype
            assert torch.equal(state[key], tensor)


@pytest.mark.parametrize("name", [*COMPILED_SCHEMES, *COMPOSED])
def test_a_state_can_be_loaded_moved_and_copied(name):
    other = one(random(3, 48, 72, seed=7), name, "rtn")
    experts, _ = held(name)
    laid_out = [m.implementation for m in experts.modules() if isinstance(m, PackedWeight)]
    experts.load_state_dict({key: tensor.clone() for key, tensor in other.tensors.items()})
    inputs, expected = random(2, 72), random(2, 72) @ other.decode()[1].t()
    for weight in (experts, copy.deepcopy(experts), experts.to(torch.bfloat16)):
        now = [m.implementation for m in weight.modules() if isinstance(m, PackedWeight)]
        assert now == laid_out
        assert relative_error(nn.functional.linear(inputs, weight[1]), expected) < 1e-5
    assert experts[1].dtype == torch.bfloat16


@WAYS
@pytest.mark.parametrize("name", ["int3g32", "int4g32", "nf4g32", "ternary", *COMPOSED])
def test_gradients_come_through_to_inputs_and_scales(name, transposed):
    experts, dense = held(name, transposed=transposed)
    inputs = random(3, 72, seed=1).requires_grad_()

    def multiply() -> Tensor:
        return inputs @ experts[1] if transposed else nn.functional.linear(inputs, experts[1])

    multiply().sum().backward()
    expected = dense[1].sum(1 if transposed else 0).expand(3, 72)
    torch.testing.assert_close(inputs.grad, expected, rtol=1e-4, atol=1e-4)
    experts.requires_grad_(True)
    multiply().sum().backward()
    slopes = [p.grad for p in experts.parameters() if p.dtype != torch.uint8]
    assert slopes
    for slope in slopes:
        assert slope[1].any()
        assert slope.isfinite().all()
        assert not slope[0].any()


@pytest.mark.parametrize("name", ["int4g32", "nf4g32", "ternary", "binary2g32", "int3g16+2%int8"])
def test_a_compiler_takes_one_expert_as_a_product(name, decoded):
    experts, dense = held(name)
    decoded.clear()
    holder = nn.Module()
    holder.experts = experts

    def run(inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, holder.experts[1])

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    inputs = random(3, 72, seed=1)
    assert relative_error(compiled(inputs), inputs @ dense[1].t()) < 1e-5
    assert "restored" not in decoded


def laid_out(name: str, scheme: str, dtype: torch.dtype, tiny_model) -> tuple[nn.Module, nn.Module]:
    """A model whose experts alone are packed, and the same with the weights that they decode to."""
    model = tiny_model(name, dtype)
    plan = plan_for(model, (scheme,))
    twin = copy.deepcopy(model)
    twin.set_experts_implementation("eager")
    schemes, weights = {}, {}
    for choice in plan.choices:
        if choice.layer.kind is Kind.EXPERTS:
            weight = one(weight_of(model, choice.layer), scheme, "rtn")
            weights[choice.layer.name], schemes[choice.layer] = weight, choice.scheme
            weight_of(twin, choice.layer).copy_(weight.decode(dtype))
    assert len(schemes) >= 2
    return pack_layers(model, schemes, lambda layer, _: weights[layer.name]), twin


TOKENS = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(1))


@DTYPES
@pytest.mark.parametrize("scheme", ["int4g32", "int3g64", "nf4g32", "int8s"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_what_its_decoded_weights_say(name, scheme, dtype, tiny_model, decoded):
    model, dense = laid_out(name, scheme, dtype, tiny_model)
    decoded.clear()
    with torch.no_grad():
        found, expected = model(TOKENS).logits, dense(TOKENS).logits
    assert not decoded
    assert relative_error(found, expected) < OF_LOGITS[dtype]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_generates_and_learns_without_decoding_an_expert(name, tiny_model, decoded):
    model, dense = laid_out(name, "int8s", torch.float32, tiny_model)
    decoded.clear()
    both = [m.generate(TOKENS, max_new_tokens=6, do_sample=False) for m in (model, dense)]
    assert torch.equal(*both)
    slopes = []
    for one_of in (model, dense):
        inputs = model.get_input_embeddings()(TOKENS).detach().requires_grad_()
        one_of(inputs_embeds=inputs).logits.square().sum().backward()
        slopes.append(inputs.grad)
    assert relative_error(*slopes) < 1e-5
    assert not decoded


@pytest.mark.parametrize("name", MODELS)
def test_experts_that_were_loaded_as_they_are_stored_are_laid_out_later(name, tiny_model):
    model = tiny_model(name)
    scheme = Scheme.parse("int4g32")
    layers = [layer for layer in find_layers(model) if layer.kind is Kind.EXPERTS]
    for layer in layers:
        weight = one(weight_of(model, layer), "int4g32", "rtn")
        pack_layer(model, layer, weight, arrange=False)
        assert model.get_submodule(layer.name).implementation == "reference"
    before, size = model.state_dict(), held_bytes(model)
    arrange_layers(model)
    for layer in layers:
        experts = model.get_submodule(layer.name)
        assert experts.scheme == scheme
        assert experts.implementation in COMPILED
    assert held_bytes(model) == size
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
