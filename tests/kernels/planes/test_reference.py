"""Products with two planes, decoded: beside each plane's own."""

import pytest
import torch

from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.kernels import reference_of
from bitplan.kernels.planes import reference
from bitplan.schema import Scheme

NAMES = ["ternary2", "ternary2g16", "binary2g64", "binary2g16d", "ternary2g16+50%"]


def packed(name: str, *shape: int) -> Packed:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [(), (3, 5), (0,)], ids=str)
def test_the_product_is_that_of_the_decoded_weight(name, tokens, dtype):
    weight = packed(name, 9, 70)
    inputs = torch.randn(*tokens, 70).to(dtype)
    output = reference.linear(inputs, weight.tensors, weight.scheme)
    assert output.dtype == dtype
    assert torch.equal(output, torch.nn.functional.linear(inputs, weight.decode(dtype)))


@pytest.mark.parametrize("name", NAMES)
def test_lookup_gives_rows(name):
    weight = packed(name, 20, 34)
    for tokens in ([[3, 0, 19], [3, 3, 1]], [], 5):
        rows = torch.tensor(tokens, dtype=torch.int64)
        found = reference.lookup(rows, weight.tensors, weight.scheme, 34, torch.bfloat16)
        assert torch.equal(found, weight.decode(torch.bfloat16)[rows])


@pytest.mark.parametrize("name", [name for name in NAMES if "+" not in name])
def test_it_is_the_reference_of_its_schemes(name):
    assert reference_of(Scheme.parse(name)) is reference
