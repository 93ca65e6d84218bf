"""Weights of several parts, or without some columns: what they decode to, and their rows."""

import re

import pytest
import torch
from torch import Tensor

from bitplan import runtimes
from bitplan.errors import SchemeError
from bitplan.footprint import scheme_bytes
from bitplan.formats import (
    Packed,
    encode_rows,
    in_place,
    kept_of_row,
    pack_kept,
    rest_of,
    widened,
)
from bitplan.schema import Scheme
from rendered import one, random

NAMES = ["int3g16+2%int8", "nf4+1%bf16", "int4g16+r3", "nvfp4+2%int8+r3", "int3g16+2:4+2%bf16+r1"]
NAMES += ["int3g16+25%ch", "nf4g16+2:4+10%ch", "int4g16+25%ch+2%int8+r3"]


def by_columns(packed: Packed) -> Tensor:
    """The dense weight of one matrix by the docstrings: column by column."""
    made = {name: part.decode() for name, part in packed.split().items()}
    added = made["up"] @ made["down"] if "up" in made else None
    weight, rest, stored = torch.zeros(packed.shape), 0, 0
    columns = packed.tensors.get("columns", torch.empty(0, dtype=torch.int32)).tolist()
    kept = packed.tensors.get("kept")
    bits = None if kept is None else kept.int().tolist()
    for column in range(packed.shape[-1]):
        if bits is not None and not bits[column // 8] >> column % 8 & 1:
            continue
        if stored in columns:
            weight[:, column] = made["salient"][:, columns.index(stored)]
        else:
            weight[:, column] = made["base"][:, rest]
            rest += 1
        if added is not None:
            weight[:, column] += added[:, stored]
        stored += 1
    assert rest == made["base"].shape[1]
    return weight


@pytest.mark.parametrize("name", NAMES)
def test_it_decodes_to_the_sum_of_its_parts_in_their_places(name):
    packed = one(random(20, 72), name, "clip")
    assert torch.equal(packed.decode(), by_columns(packed))
    assert torch.equal(packed.decode(torch.bfloat16), packed.decode().bfloat16())


@pytest.mark.parametrize("shape", [(20, 72), (3, 20, 72)], ids=["matrix", "experts"])
@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_those_of_the_byte_model(name, shape):
    packed = one(random(*shape), name, "rtn")
    assert packed.nbytes == scheme_bytes(shape, packed.scheme)
    assert all(tensor.is_contiguous() for tensor in packed.tensors.values())


@pytest.mark.parametrize("name", NAMES)
def test_each_expert_has_columns_of_its_own(name):
    weight = random(3, 20, 72) * torch.linspace(1, 4, 72).roll(20)
    weight[1] = weight[1].roll(30, dims=-1)
    packed = one(weight, name, "rtn")
    for expert in range(3):
        tensors = {key: tensor[expert] for key, tensor in packed.tensors.items()}
        alone = Packed(scheme=packed.scheme, shape=(20, 72), tensors=tensors)
        torch.testing.assert_close(packed.decode()[expert], by_columns(alone))
    if "columns" in packed.tensors:
        columns = packed.tensors["columns"]
        assert columns.dtype == torch.int32
        assert columns.shape == (3, 8)
        assert (columns.diff(dim=-1) > 0).all()
        assert not torch.equal(columns[0], columns[1])


@pytest.mark.parametrize("shape", [(20, 72), (3, 20, 72)], ids=["matrix", "experts"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_rows_of_the_whole_and_nothing_is_copied(name, shape):
    packed = one(random(*shape), name, "rtn")
    whole = packed.decode()
    for rows in (slice(0, 7), slice(7, 20), slice(19, 40), slice(0, 0)):
        part = packed.rows(rows)
        assert part.shape == tuple(whole[..., rows, :].shape)
        torch.testing.assert_close(part.decode(), whole[..., rows, :])
        for key, tensor in part.tensors.items():
            owner = packed.tensors[key].untyped_storage()
            assert tensor.untyped_storage().data_ptr() == owner.data_ptr()


def test_columns_are_put_where_they_were():
    columns = torch.tensor([[0, 5], [2, 3]], dtype=torch.int32)
    assert rest_of(columns, 6).tolist() == [[1, 2, 3, 4], [0, 1, 4, 5]]
    rest, salient = torch.arange(8.0).view(2, 1, 4), -torch.arange(1, 5.0).view(2, 1, 2)
    found = in_place(rest, salient, columns)
    assert found.tolist() == [[[-1, 0, 1, 2, 3, -2]], [[4, 5, -3, -4, 6, 7]]]


def test_columns_that_are_left_out_are_zero():
    kept = torch.stack([pack_kept(torch.tensor(some), 10) for some in ([0, 2, 9], [3, 4, 8])])
    assert kept.tolist() == [[5, 2], [24, 1]]
    columns = kept_of_row(kept, 10, 3)
    assert columns.tolist() == [[0, 2, 9], [3, 4, 8]]
    found = widened(torch.arange(1, 7.0).view(2, 1, 3), columns, 10)
    assert found.tolist() == [[[1, 0, 2, 0, 0, 0, 0, 0, 0, 3]], [[0, 0, 0, 4, 5, 0, 0, 0, 6, 0]]]


@pytest.mark.parametrize("name", ["int4g16+2%int8", "int4g16+r4", "int4g16+25%ch"])
def test_neither_a_cache_nor_torchs_own_matmul_has_them(name):
    with pytest.raises(SchemeError, match=f"^{re.escape(name)} is for weights: .* int4g64"):
        encode_rows(torch.zeros(1, 2, 32), Scheme.parse(name))
    wide = Scheme.parse(name.replace("g16", "g32"))
    assert runtimes.unfit(wide.base, 64, 64) is None
    assert "alone" in (runtimes.unfit(wide, 64, 64) or "")
