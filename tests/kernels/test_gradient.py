"""The way back through a compiled product: as through the dense weight, which is not kept."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bitplan.compress import render
from bitplan.kernels import arranged_for, differentiable
from bitplan.kernels.native import tiles
from bitplan.schema import Scheme

# RMS(error) / RMS(product in float64): measured where bfloat16 is multiplied as such, and doubled.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 7e-3, torch.float16: 5e-4}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [(), (3,), (2, 20), (0,)], ids=str)
@pytest.mark.parametrize("name", ["int3g16", "int8s", "int4g32d", "nf4g64", "nvfp4"])
def test_gradients_are_those_of_the_dense_weight(name, tokens, dtype):
    scheme, generator = Scheme.parse(name), torch.Generator().manual_seed(0)
    weight = render(torch.randn(150, 70, generator=generator), [scheme], quantizer="rtn")[scheme]
    kernel = arranged_for(scheme, "cpu")
    arranged = kernel.arrange(weight.tensors, scheme, 70)
    inputs = torch.randn(*tokens, 70, generator=generator).to(dtype).requires_grad_()
    slope = torch.randn(*tokens, 150, generator=generator).to(dtype)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = differentiable(inputs, arranged, scheme, kernel)
    assert sum(kept.values()) == weight.nbytes
    output.backward(slope)
    expected = slope.double() @ weight.decode().double()
    assert inputs.grad is not None
    assert inputs.grad.dtype == dtype
    assert inputs.grad.shape == expected.shape
    if expected.numel():
        error = (inputs.grad.double() - expected).square().mean() / expected.square().mean()
        assert error.sqrt() < TOLERANCE[dtype]
