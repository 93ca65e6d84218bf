import pytest
import torch

from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.kernels import reference_of
from bitplan.kernels.bitmod import reference as bitmod
from bitplan.kernels.codebook import reference
from bitplan.kernels.integer import reference as integer
from bitplan.kernels.sparse import reference as sparse
from bitplan.runtimes import ROWS_AT_ONCE
from bitplan.schema import Scheme

NAMES = [
    "bitmod4g16",
    "sign",
    "ternaryg16",
    "fp8",
    "fp6g32",
    "fp4g64",
    "nf4g64",
    "bfp3g16",
    "mxfp4",
    "nvfp4",
    "nf4g16d",
    "nf4g16+25%",
]


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


@pytest.mark.parametrize("name", ["nvfp4", "nf3g16"])
def test_many_rows_are_decoded_in_parts(name):
    weight = packed(name, ROWS_AT_ONCE + 7, 40)
    inputs = torch.randn(3, 40)
    output = reference.linear(inputs, weight.tensors, weight.scheme)
    torch.testing.assert_close(output, inputs @ weight.decode().t(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_lookup_gives_rows(name):
    weight = packed(name, 20, 33)
    for tokens in ([[3, 0, 19], [3, 3, 1]], [], 5):
        rows = torch.tensor(tokens, dtype=torch.int64)
        found = reference.lookup(rows, weight.tensors, weight.scheme, 33, torch.bfloat16)
        assert found.shape == (*rows.shape, 33)
        assert torch.equal(found, weight.decode(torch.bfloat16)[rows])
    with pytest.raises(IndexError):
        reference.lookup(torch.tensor([-1]), weight.tensors, weight.scheme, 33, torch.float32)


def test_each_family_has_its_reference():
    others = {"int4g64": integer, "bitmod4g16": bitmod, "nf4g16+25%": sparse}
    for name in ("int4g64", *NAMES):
        assert reference_of(Scheme.parse(name)) is others.get(name, reference)
