import pytest
import torch

from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.kernels.integer import reference
from bitplan.runtimes import ROWS_AT_ONCE
from bitplan.schema import Scheme

NAMES = ["int2g32", "int3", "int4g64", "int5g32s", "int6", "int8s", "int8g32", "int4g16+50%"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def packed(name: str, *shape: int) -> Packed:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [(), (1,), (3, 5), (0,), (2, 0)], ids=str)
def test_the_product_is_that_of_the_decoded_weight(name, tokens, dtype):
    weight = packed(name, 9, 70)
    inputs = torch.randn(*tokens, 70).to(dtype)
    output = reference.linear(inputs, weight.tensors, weight.scheme)
    assert output.dtype == dtype
    assert torch.equal(output, torch.nn.functional.linear(inputs, weight.decode(dtype)))


def test_many_rows_are_decoded_in_parts():
    rows = ROWS_AT_ONCE + 7
    weight = packed("int3g32", rows, 40)
    inputs = torch.randn(3, 40)
    output = reference.linear(inputs, weight.tensors, weight.scheme)
    torch.testing.assert_close(output, inputs @ weight.decode().t(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("integer", [torch.int64, torch.int32], ids=str)
def test_lookup_gives_rows(name, integer):
    weight = packed(name, 20, 33)
    for tokens in ([[3, 0, 19], [3, 3, 1]], [], [[], []], 5):
        rows = torch.tensor(tokens, dtype=integer)
        found = reference.lookup(rows, weight.tensors, weight.scheme, 33, torch.bfloat16)
        assert found.shape == (*rows.shape, 33)
        assert torch.equal(found, weight.decode(torch.bfloat16)[rows.long()])


@pytest.mark.parametrize("token", [-1, 20])
def test_a_token_that_is_not_in_the_table_is_refused(token):
    weight = packed("int4g32", 20, 33)
    with pytest.raises(IndexError):
        reference.lookup(torch.tensor([token]), weight.tensors, weight.scheme, 33, torch.float32)
