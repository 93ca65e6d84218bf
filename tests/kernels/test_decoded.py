"""The way back through a packed weight: as through the dense one, which is not kept for it."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear

from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.kernels import decoded, reference_of
from bitplan.schema import Scheme

TUNED = {
    "int4g64": ("scale", "offset"),
    "int3g16s": ("scale",),
    "int4g32d": ("scale_step", "offset_step"),
    "fp8": ("scale",),
    "ternaryg16": ("scale",),
    "ternary2g16": ("scale", "second"),
    "binary2g32d": ("scale_step", "second_step"),
    "nf4g64": ("scale",),
    "nvfp4": ("matrix_scale",),
    "mxfp4": (),
}
"""What of a scheme is a floating-point number."""


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(decoded, "ROWS_AT_ONCE", 5)


def packed(name: str, *shape: int) -> Packed:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.clone().requires_grad_(tensor.is_floating_point())
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [(), (3,), (2, 4), (0,)], ids=str)
@pytest.mark.parametrize("name", TUNED)
def test_gradients_are_those_of_the_dense_weight(name, tokens, dtype):
    weight = packed(name, 12, 70)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(*tokens, 70, generator=generator).to(dtype)
    slope = torch.randn(*tokens, 12, generator=generator).to(dtype)

    x, tensors = inputs.clone().requires_grad_(), leaves(weight.tensors)
    output = reference_of(weight.scheme).linear(x, tensors, weight.scheme)
    output.backward(slope)

    expected, plain = inputs.clone().requires_grad_(), leaves(weight.tensors)
    dense = Packed(scheme=weight.scheme, shape=weight.shape, tensors=plain).decode(dtype)
    wanted = linear(expected, dense)
    wanted.backward(slope)

    close = (
        {"rtol": 2e-2, "atol": 2e-1} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-4}
    )
    torch.testing.assert_close(output, wanted, **close)
    torch.testing.assert_close(x.grad, expected.grad, **close)
    assert {n for n, t in tensors.items() if t.requires_grad} == set(TUNED[name])
    for part in TUNED[name]:
        assert tensors[part].grad is not None
        torch.testing.assert_close(tensors[part].grad, plain[part].grad, **close)


@pytest.mark.parametrize("tuned", [False, True])
def test_nothing_dense_is_kept_for_the_way_back(tuned):
    weight = packed("int4g64", 64, 640)
    tensors = leaves(weight.tensors) if tuned else weight.tensors
    inputs = torch.randn(3, 640, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = reference_of(weight.scheme).linear(inputs, tensors, weight.scheme)
    allowed = weight.nbytes + (inputs.nbytes if tuned else 0)
    assert sum(kept.values()) == allowed
    output.sum().backward()
    assert inputs.grad is not None


def test_only_what_is_asked_for_gets_a_gradient():
    weight = packed("int4g64", 12, 70)
    tensors = dict(weight.tensors)
    tensors["scale"] = tensors["scale"].clone().requires_grad_()
    inputs = torch.randn(3, 70)
    reference_of(weight.scheme).linear(inputs, tensors, weight.scheme).sum().backward()
    assert tensors["scale"].grad is not None
    assert inputs.grad is None
    assert tensors["offset"].grad is None


def test_autocast_multiplies_in_its_own_dtype_and_comes_back():
    weight = packed("int4g64", 12, 70)
    inputs = torch.randn(3, 70, requires_grad=True)
    tensors = leaves(weight.tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = reference_of(weight.scheme).linear(inputs, tensors, weight.scheme)
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.dtype == torch.float32
    torch.testing.assert_close(
        inputs.grad, weight.decode().sum(0).expand(3, -1), rtol=2e-2, atol=1e-1
    )
