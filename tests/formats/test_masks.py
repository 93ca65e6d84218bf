"""Masks pack and unpack exactly, in the bytes that the byte model says."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitplan.compress import render
from bitplan.compress.sparsifiers import keep
from bitplan.footprint import mask_bytes
from bitplan.formats import Packed
from bitplan.formats.masks import AT_ONCE, kept_of, pack_mask, spread, unpack_mask
from bitplan.schema import Scheme, Sparsity

BLOCKED = [f"{kept}:{block}" for block in (2, 4, 8) for kept in range(1, block)]


def mask_of(sparsity: Sparsity, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    score = torch.rand(columns, rows, generator=torch.Generator().manual_seed(seed))
    return keep(score, sparsity, sparsity.columns(columns)).t()


@pytest.mark.parametrize("name", [*BLOCKED, "1%", "30%", "50%", "99%"])
@pytest.mark.parametrize("columns", [8, 24, 200])
def test_a_mask_comes_back(name, columns):
    sparsity = Sparsity.parse(name)
    mask = mask_of(sparsity, 7, columns)
    assert (mask.sum(1) == sparsity.columns(columns)).all()
    packed = pack_mask(mask, sparsity)
    assert packed.shape == (7, mask_bytes(columns, Scheme.parse(f"int4+{name}")))
    assert torch.equal(unpack_mask(packed, sparsity, columns), mask)


@pytest.mark.parametrize("name", BLOCKED)
def test_every_pattern_has_a_number_of_its_own(name):
    sparsity = Sparsity.parse(name)
    places = itertools.combinations(range(sparsity.block), sparsity.kept)
    patterns = torch.tensor([[i in kept for i in range(sparsity.block)] for kept in places])
    packed = pack_mask(patterns, sparsity)
    assert len(set(map(tuple, packed.tolist()))) == len(patterns)
    assert torch.equal(unpack_mask(packed, sparsity, sparsity.block), patterns)


@given(st.integers(1, 99), st.integers(1, 70), st.integers(0, 9))
def test_any_share_of_any_row(percent, columns, seed):
    sparsity = Sparsity.parse(f"{percent}%")
    mask = mask_of(sparsity, 3, columns, seed)
    values = torch.randint(1, 255, (3, columns), dtype=torch.uint8)
    kept = kept_of(values, mask)
    assert kept.shape == (3, sparsity.columns(columns))
    assert torch.equal(spread(kept, mask), values * mask)


@pytest.mark.parametrize("name", ["int3g16+2:4", "int5s+50%", "nf4g32+1:4", "nvfp4+6:8"])
def test_what_is_not_kept_decodes_to_zero_and_the_rest_as_without(name):
    scheme = Scheme.parse(name)
    dense = Scheme.parse(name.partition("+")[0])
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2**dense.bits, (5, 64), dtype=torch.uint8, generator=generator)
    groups = 64 // (dense.group_size or 64)
    scale = torch.rand(5, groups, generator=generator) + 0.1
    numbers = {
        "scale": scale,
        "offset": scale - 0.3,
        "matrix_scale": torch.ones(1, 1) if scheme.family.matrix_bytes else None,
    }
    mask = mask_of(scheme.sparsity, 5, 64)
    whole = Packed.encode(dense, codes, **numbers).decode()
    sparse = Packed.encode(scheme, codes, **numbers, mask=mask)
    assert torch.equal(sparse.decode(), torch.where(mask, whole, 0.0))
    assert torch.equal(sparse.rows(slice(1, 4)).decode(), sparse.decode()[1:4])


@pytest.mark.parametrize("name", ["int3g16", "nf4g16"])
def test_gradients_pass_through_what_is_kept_alone(name):
    scheme, weight = Scheme.parse(f"{name}+50%"), torch.randn(5, 64)
    packed = render(weight, [scheme], quantizer="rtn")[scheme]
    leaves = {
        k: t.clone().requires_grad_(k in ("scale", "offset")) for k, t in packed.tensors.items()
    }
    decoded = Packed(scheme=scheme, shape=packed.shape, tensors=leaves).decode()
    assert torch.equal(decoded, packed.decode())
    (gradient,) = torch.autograd.grad(decoded.sum(), leaves["scale"])
    dense = packed.decode() - (
        packed.tensors["offset"].float().repeat_interleave(16, 1) * (packed.decode() != 0)
        if "offset" in leaves
        else 0
    )
    units = dense / packed.tensors["scale"].float().repeat_interleave(16, 1)
    expected = units.unflatten(1, (-1, 16)).sum(2)
    torch.testing.assert_close(gradient.float(), expected, rtol=2e-2, atol=2e-2)


def test_large_weights_are_made_zero_part_by_part():
    scheme = Scheme.parse("int4g16+50%")
    weight = torch.randn(9, 4 * AT_ONCE // 16)
    packed = render(weight, [scheme], quantizer="rtn")[scheme]
    whole, rows = packed.decode(), [packed.rows(slice(i, i + 1)).decode() for i in range(9)]
    assert torch.equal(whole, torch.cat(rows))
    assert (whole == 0).sum() >= weight.numel() // 2
