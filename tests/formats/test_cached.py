"""Rows of keys and values: rounded like `rtn` rounds a weight, alone or packed."""

import pytest
import torch

from bitplan.compress import render
from bitplan.errors import SchemeError
from bitplan.footprint import scheme_bytes
from bitplan.formats import encode_rows, round_rows, rows_of, states_of
from bitplan.schema import Scheme

SCHEMES = ("int2g32", "int3", "int4g64s", "int4g32", "int8g64", "int8s", "bf16")


def rows_for(width: int, dtype: torch.dtype) -> torch.Tensor:
    """Some of them far from zero, some of one value throughout, one of zeros."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 5, width, generator=generator) * 3
    rows += torch.randn(width, generator=generator) * 20
    rows[1, 2], rows[2, 0] = 7.3, 0.0
    return rows.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", [16, 80, 96, 192])
@pytest.mark.parametrize("name", SCHEMES)
def test_rows_are_rounded_as_rtn_rounds_a_weight(name, width, dtype):
    rows, scheme = rows_for(width, dtype), Scheme.parse(name)
    before = rows.clone()
    packed = encode_rows(rows, scheme)
    weight = render(rows.flatten(0, 1), [scheme], quantizer="rtn")[scheme]
    assert packed.tensors.keys() == weight.tensors.keys()
    for part, tensor in packed.tensors.items():
        assert torch.equal(tensor.flatten(0, 1), weight.tensors[part])
    assert torch.equal(packed.decode(dtype), round_rows(rows, scheme))
    assert packed.nbytes == scheme_bytes((15, width), scheme)
    assert torch.equal(rows, before)


def test_more_bits_and_smaller_groups_round_better():
    rows = rows_for(192, torch.float32)
    errors = [
        (round_rows(rows, Scheme.parse(name)) - rows).square().mean().item()
        for name in ("int2g64", "int2g32", "int4g64", "int4g32", "int8g64", "fp32")
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_a_row_is_all_heads_of_one_token():
    states = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    rows = rows_of(states)
    assert rows.shape == (2, 4, 15)
    assert rows[1, 2].tolist() == [*states[1, 0, 2], *states[1, 1, 2], *states[1, 2, 2]]
    assert torch.equal(states_of(rows, heads=3), states)


@pytest.mark.parametrize("name", ["fp8", "nvfp4", "mxfp4", "nf4g64", "sign", "bfp8g32"])
def test_what_is_for_weights_is_refused_by_name(name):
    for take in (encode_rows, round_rows):
        with pytest.raises(SchemeError, match=f"{name} is for weights: .* int4g64"):
            take(torch.randn(1, 2, 32), Scheme.parse(name))
