"""Compiled products with integer codes, beside the weight decoded and multiplied in float64."""

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.kernels.integer import cpu, reference
from bitplan.kernels.native import weight as native
from bitplan.schema import Scheme

# RMS(error) / RMS(product in float64 with the weight decoded in float32): measured, and doubled.
TOLERANCE = {
    torch.float32: 1e-6,
    torch.bfloat16: 4e-3,
    torch.float16: 6e-4,
    torch.float64: 1e-6,
}
WIDTHS = [f"int{bits}" for bits in (2, 3, 4, 5, 6, 7, 8)]
GRIDS = ["", "s", "g16", "g32s", "g64", "g128", "g64s", "g16d", "g64sd"]
SHAPES = [(64, 64), (130, 96), (48, 200), (70, 33), (129, 7), (192, 131)]
TOKENS = [(), (1,), (3,), (2, 5), (33,), (0,), (2, 0)]


def packed(name: str, rows: int, columns: int, size: float = 0.05) -> Packed:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * size
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


def arranged(weight: Packed) -> dict[str, Tensor]:
    return cpu.arrange(weight.tensors, weight.scheme, weight.shape[-1])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def product(inputs: Tensor, weight: Packed) -> Tensor:
    return inputs.double() @ weight.decode().double().t()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_product_is_the_references(width, grid, dtype):
    for rows, columns in SHAPES:
        weight = packed(width + grid, rows, columns)
        held = arranged(weight)
        for tokens in TOKENS:
            inputs = random(*tokens, columns).to(dtype)
            output = cpu.linear(inputs, held, weight.scheme)
            assert output.dtype == dtype
            assert output.shape == (*tokens, rows)
            if output.numel():
                error = relative_error(output.double(), product(inputs, weight))
                assert error < TOLERANCE[dtype], (rows, columns, tokens)
