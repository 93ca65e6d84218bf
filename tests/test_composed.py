"""Weights of several parts as modules: products, rows, experts, state, devices, gradients."""

import copy

import pytest
import torch
from torch import Tensor, nn

from bitplan.composed import ComposedWeight, hold
from bitplan.errors import InputError
from bitplan.formats import Packed
from bitplan.modules import PackedConvolution, PackedEmbedding, PackedLinear
from bitplan.packed_weight import PackedWeight
from rendered import one, random

NAMES = ["int3g16+2%int8", "int4g32+2%bf16", "int2g16s+r4", "nvfp4+2%int8+r4"]
NAMES += ["int4g16d+r8", "int3g16+2:4+2%int8", "ternaryg16+2%bf16+r2", "bitmod3g16+r1"]
NAMES += ["int4g32+25%ch", "nf4g16+2:4+25%ch", "int3g16+25%ch+2%int8+r4"]
NAMES += ["ternary2g16d+2%int8", "binary2g16+r2"]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def packed(name: str, *shape: int) -> Packed:
    return one(random(*shape), name, "rtn")


def held(name: str, dtype: torch.dtype = torch.float32) -> ComposedWeight:
    """A weight [48, 72] in the layout of its fastest implementations."""
    weight = hold(packed(name, 48, 72), compute_dtype=dtype)
    weight.arrange()
    assert isinstance(weight, ComposedWeight)
    return weight


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_product_is_that_of_the_decoded_weight(name, dtype):
    layer = PackedLinear(held(name, dtype), nn.Parameter(random(48)))
    weight = packed(name, 48, 72).decode().double()
    for shape in [(72,), (3, 72), (2, 5, 72), (0, 72), (4, 144)]:
        inputs = random(*shape, seed=1).to(dtype)
        inputs = inputs[..., ::2] if shape[-1] == 144 else inputs
        output = layer(inputs)
        expected = inputs.double() @ weight.t() + layer.bias.double()
        assert output.dtype == dtype
        assert output.shape == expected.shape
        if output.numel():
            assert relative_error(output, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", NAMES)
def test_each_part_has_the_kernel_that_it_would_have_alone(name):
    weight = held(name)
    for key, part in packed(name, 48, 72).split().items():
        alone = PackedWeight(part, compute_dtype=torch.float32)
        alone.arrange()
        assert weight.get_submodule(key).implementation == alone.implementation
    weight.arrange(kernel="reference")
    parts = [part for part in weight.modules() if isinstance(part, PackedWeight)]
    assert {part.implementation for part in parts} == {"reference"}


@pytest.mark.parametrize("features", [71, 73, 64, 1])
@pytest.mark.parametrize("name", NAMES[:3])
def test_inputs_of_another_width_are_refused(name, features):
    with pytest.raises(InputError, match=rf"have {features} features.*takes 72"):
        held(name).multiply(torch.zeros(2, features))


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_and_saves_what_the_format_says(name):
    canonical, weight = packed(name, 48, 72), held(name)
    tensors = [*weight.parameters(), *weight.buffers()]
    weight.multiply(torch.zeros(1, 72))  # the columns of the base are worked out now
    assert sum(tensor.nbytes for tensor in tensors) == canonical.nbytes
    state = weight.state_dict()
    assert state.keys() == canonical.tensors.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in canonical.tensors.items())


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("name", NAMES)
def test_a_state_can_be_loaded_into_one_that_has_run(name, assign):
    other = one(random(48, 72, seed=7).flip(1) * torch.linspace(1, 3, 72), name, "rtn")
    layer = PackedLinear(held(name), None)
    inputs = random(3, 72, seed=1)
    layer(inputs)
    state = {f"weight.{key}": tensor.clone() for key, tensor in other.tensors.items()}
    layer.load_state_dict(state, assign=assign)
    assert relative_error(layer(inputs), inputs @ other.decode().t()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_an_embedding_gives_rows(name, dtype):
    weight = hold(packed(name, 48, 72), compute_dtype=dtype)
    weight.arrange(lookup=True)
    table, dense = PackedEmbedding(weight), packed(name, 48, 72).decode()
    tokens = torch.tensor([[0, 47, 5], [5, 5, 1]])
    rows = table(tokens)
    assert rows.dtype == dtype
    assert rows.shape == (2, 3, 72)
    assert relative_error(rows, dense[tokens]) < TOLERANCE[dtype]
    if "+r" not in name:
        assert torch.equal(rows, dense.to(dtype)[tokens])
    assert table(tokens[:, :0]).shape == (2, 0, 72)


@pytest.mark.parametrize("name", NAMES)
def test_a_convolution_convolves_with_its_decoded_weight(name):
    dense = nn.Conv2d(8, 12, 3, padding=1)
    weight = packed(name, 12, 72)
    layer = PackedConvolution(hold(weight, compute_dtype=torch.float32), dense)
    inputs = random(2, 8, 5, 5)
    with torch.no_grad():
        dense.weight.copy_(weight.decode().view(12, 8, 3, 3))
        torch.testing.assert_close(layer(inputs), dense(inputs))


@pytest.mark.parametrize("arranged", [True, False], ids=["arranged", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_come_through_to_inputs_and_scales(name, arranged):
    weight = held(name)
    if not arranged:
        weight.arrange(kernel="reference")
    inputs = random(3, 72, seed=1).requires_grad_()
    weight.multiply(inputs).sum().backward()
    expected = packed(name, 48, 72).decode().sum(0).expand(3, 72)
    torch.testing.assert_close(inputs.grad, expected, rtol=1e-4, atol=1e-4)
    weight.requires_grad_(True)
    weight.multiply(inputs).sum().backward()
    slopes = [parameter.grad for parameter in weight.parameters()]
    assert slopes
    assert all(slope is not None and slope.isfinite().all() and slope.any() for slope in slopes)


@pytest.mark.parametrize("name", NAMES)
def test_it_moves_and_is_copied(name):
    weight = held(name)
    inputs = random(3, 72, seed=1)
    before = weight.multiply(inputs)
    moved = copy.deepcopy(weight).to(torch.float64)
    assert moved.dtype == torch.float64
    canonical = packed(name, 48, 72).tensors
    assert all(torch.equal(moved.state_dict()[key], canonical[key]) for key in canonical)
    assert relative_error(moved.multiply(inputs), before) < 1e-5
    assert moved.lookup(torch.tensor([3])).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_a_tied_weight_is_saved_once(name):
    weight = held(name)
    model = nn.ModuleDict({"table": PackedEmbedding(weight), "head": PackedLinear(weight, None)})
    state = model.state_dict()
    for key, tensor in packed(name, 48, 72).tensors.items():
        assert state[f"table.weight.{key}"].data_ptr() == state[f"head.weight.{key}"].data_ptr()
        assert torch.equal(state[f"table.weight.{key}"], tensor)


def test_it_says_what_it_is():
    assert repr(held("nf4g32+2%int8+r4")).splitlines() == [
        "ComposedWeight(",
        "  [48, 72], nf4g32+2%int8+r4",
        "  (base): PackedWeight([48, 64], nf4g32, cpu)",
        "  (salient): PackedWeight([48, 8], int8s, cpu)",
        "  (up): PackedWeight([48, 4], int8s, cpu)",
        "  (down): PackedWeight([4, 72], int8s, cpu)",
        ")",
    ]
