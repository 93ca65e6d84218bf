"""Compiled products with codes of a codebook, beside the weight decoded and multiplied."""

import pytest
import torch
from torch import Tensor

from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.kernels import arranged_for
from bitplan.kernels.codebook import cpu, even, reference
from bitplan.schema import Scheme

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float64: 1e-6}
NAMES = ["sign", "fp8", "fp6g32", "fp4g64", "nf4g64", "nf3g16", "bfp3g16", "bfp8", "nf4g16d"]
NAMES += ["fp8e5m2g128", "mxfp4", "mxfp6", "mxfp8e5m2", "nvfp4"]
NAMES += ["ternary", "ternaryg16", "ternaryg64", "ternaryg16d"]
SHAPES = [(64, 64), (70, 200), (48, 33)]


def packed(name: str, rows: int, columns: int) -> Packed:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def test_evenly_spaced_codes_need_no_table():
    loops = {name: arranged_for(Scheme.parse(name), "cpu") for name in NAMES}
    even_ones = {name for name, kernel in loops.items() if kernel is even}
    assert even_ones == {name for name in NAMES if name.startswith(("bfp", "ternary"))}
    assert {kernel for name, kernel in loops.items() if name not in even_ones} == {cpu}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_product_is_the_references(name, dtype):
    kernel = arranged_for(Scheme.parse(name), "cpu")
    for rows, columns in SHAPES:
        weight = packed(name, rows, columns)
        held = kernel.arrange(weight.tensors, weight.scheme, columns)
        for tokens in ((), (3,), (2, 20), (0,)):
            inputs = torch.randn(*tokens, columns, generator=torch.Generator().manual_seed(1))
            inputs = inputs.to(dtype)
            output = kernel.linear(inputs, held, weight.scheme)
            assert output.dtype == dtype
            assert output.shape == (*tokens, rows)
            if output.numel():
                expected = inputs.double() @ weight.decode().double().t()
                assert relative_error(output.double(), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_restored_tensors_are_exact(name):
    kernel = arranged_for(Scheme.parse(name), "cpu")
    for rows, columns in SHAPES:
        weight = packed(name, rows, columns)
        held = kernel.arrange(weight.tensors, weight.scheme, columns)
        assert sum(tensor.nbytes for tensor in held.values()) == weight.nbytes
        restored = kernel.restore(held, weight.scheme, columns)
        assert restored.keys() == weight.tensors.keys()
        assert all(torch.equal(restored[key], weight.tensors[key]) for key in restored)
        tokens = torch.tensor([[0, rows - 1], [5, 5]])
        found = kernel.lookup(tokens, held, weight.scheme, columns, torch.bfloat16)
        expected = reference.lookup(tokens, weight.tensors, weight.scheme, columns, torch.bfloat16)
        assert torch.equal(found, expected)
