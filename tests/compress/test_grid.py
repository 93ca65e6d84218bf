import pytest
import torch

from bitplan.compress.grid import LANES, Levels, full_range, stacked, unstacked
from bitplan.compress.integer_plane import IntegerPlane
from bitplan.schema import Scheme


def schemes(*names: str) -> list[Scheme]:
    return [Scheme.parse(name) for name in names]


def grid(weight: torch.Tensor, name: str) -> tuple[Levels, torch.Tensor, torch.Tensor, int]:
    """Levels, scale and offset of the full range, and how many columns are rows of the weight."""
    work = stacked(weight, schemes(name))
    levels = Levels.of(schemes(name), work)
    return (levels, *full_range(work, levels), len(weight))


def test_stacked_rows_come_in_whole_lanes():
    weight = torch.randn(5, 3)
    work = stacked(weight, schemes("int2", "int4"))
    assert work.shape == (3, 2 * LANES)
    for start in (0, LANES):
        assert torch.equal(work[:, start : start + 5], weight.t())
        assert not work[:, start + 5 : start + LANES].any()


@pytest.mark.parametrize("rows", [5, LANES])
@pytest.mark.parametrize("turned", [False, True])
def test_stacked_is_a_copy_however_the_weight_lies(rows, turned):
    weight = torch.randn(3, rows).t() if turned else torch.randn(rows, 3)
    kept = weight.clone()
    stacked(weight, schemes("int4")).zero_()
    assert torch.equal(weight, kept)


def test_unstacked_gives_each_scheme_its_own_rows():
    both = schemes("int4", "int8s")
    rows = 70
    codes = torch.arange(2 * 2 * LANES, dtype=torch.uint8).remainder(16).repeat(3, 1)
    codes[:, 2 * LANES :] += 100
    scale = torch.arange(4.0 * LANES)
    first, second = unstacked(codes, [(scale, -scale)], both, rows)
    assert first.shape == second.shape == (rows, 3)
    assert torch.equal(first.tensors["scale"][:, 0].float(), scale[:rows].bfloat16().float())
    assert torch.equal(second.tensors["codes"][:, :3], codes[:, 2 * LANES :][:, :rows].t())
    assert "offset" in first.tensors
    assert "offset" not in second.tensors


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("mean", [0.0, 0.3, 1.003, -7.77, 100.3])
def test_the_grid_covers_the_group_wherever_it_lies(bits, mean):
    # An offset of 100 is stored to the nearest 0.5, and the group spans 0.1.
    weight = torch.randn(20, 64, generator=torch.Generator().manual_seed(bits)) * 0.02 + mean
    _, scale, offset, rows = grid(weight, f"int{bits}g64")
    scale, offset = scale[:rows], offset[:rows]
    half = 2 ** (bits - 1)
    # Half a step may be clipped off by the offset, and the scale is rounded to 8 bits.
    slack = scale * (0.51 + half * 2**-8) + 1e-6
    assert (offset - half * scale <= weight.amin(1) + slack).all()
    assert (offset + (half - 1) * scale >= weight.amax(1) - slack).all()


def test_more_bits_are_never_worse_far_from_zero():
    weight = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) * 0.02 + 3.7
    errors = []
    for bits in (2, 3, 4, 5, 6, 8):
        levels, scale, offset, rows = grid(weight, f"int{bits}g64")
        work = stacked(weight, schemes(f"int{bits}g64"))
        decoded = levels.quantize(work, scale, offset) * scale + offset
        errors.append((decoded - work)[:, :rows].square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[2] / 20


def test_a_symmetric_grid_has_no_offset_and_covers_both_sides():
    weight = torch.randn(10, 32) - 2
    _, scale, offset, rows = grid(weight, "int4s")
    assert not offset.any()
    assert (7.5 * scale[:rows] >= weight.abs().amax(1) * (1 - 2**-8)).all()


def test_equal_weights_that_bfloat16_holds_are_exact():
    weight = torch.tensor([[0.0] * 8, [1.5] * 8, [-0.25] * 8, [1e30] * 8]).bfloat16().float()
    levels, scale, offset, rows = grid(weight, "int2")
    work = stacked(weight, schemes("int2"))
    decoded = levels.quantize(work, scale, offset) * scale + offset
    assert torch.equal(decoded[:, :rows].t(), weight)


def test_search_sees_no_difference_where_nothing_was_seen():
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    plane = IntegerPlane(weight, schemes("int3g64"))
    unseen, alike = (plane.search(slice(64), of(64)) for of in (torch.zeros, torch.ones))
    assert all(torch.equal(a, b) for a, b in zip(unseen, alike, strict=True))


def test_search_serves_the_columns_that_matter():
    # Wide columns without weight must not stretch the grid of the others.
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) * 0.01
    weight[:, 5], weight[:, 6] = 0.08, -0.08
    importance = torch.ones(64)
    importance[5:7] = 0.0
    plane = IntegerPlane(weight, schemes("int4g64"))
    wide, _ = plane.full(slice(64))
    narrow, _ = plane.search(slice(64), importance)
    assert (narrow[:8] < wide[:8] * 0.5).all()
