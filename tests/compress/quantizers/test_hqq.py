"""HQQ: the norm of its errors, what it moves, and that it reads no data."""

import pytest
import torch
from torch import Tensor

from bitplan.compress import reads_covariance
from bitplan.compress.planes import planes
from bitplan.compress.quantizers.hqq import P, half_quadratic
from bitplan.schema import FAMILIES, Scheme
from rendered import correlated, one, random

STEMS = [f"{stem}{'' if family.group_size else 'g32'}" for stem, family in FAMILIES.items()]
NAMES = [*STEMS, "int2", "int3g64s", "int4s", "int4g32d", "nf4g64d", "int3g32+50%", "nf4g32+2:4"]


def weights() -> Tensor:
    """Rows that lie on both sides of zero, some beside it, and a few that are far from the rest."""
    weight = random(24, 200) + random(24, 1, seed=1) * 0.5
    weight[::3, ::41] *= 6
    return weight


def norms(weight: Tensor, error: Tensor, group: int | None) -> Tensor:
    """Of each group: [rows, groups]."""
    lacking = -weight.shape[1] % (group or weight.shape[1])
    sizes = torch.nn.functional.pad(error.double().abs().pow(P), (0, lacking))
    return sizes.unflatten(1, (-1, group or weight.shape[1])).sum(2)


@pytest.mark.parametrize("name", NAMES)
def test_no_group_is_worse_than_by_rtn_in_the_norm(name):
    weight = weights()
    rtn, hqq = (one(weight, name, quantizer) for quantizer in ("rtn", "hqq"))
    before, after = (norms(weight, p.decode() - weight, p.scheme.group_size) for p in (rtn, hqq))
    # Where a weight is a level an error of nothing counts, to a power of 0.7, as float32's.
    assert (after <= before * (1 + 1e-5) + 1e-3).all()
    # Powers of two lie too far apart, and a mean of absolute values is hard to better.
    if hqq.scheme.is_integer and hqq.scheme.bits < 8:
        assert after.sum() < 0.995 * before.sum()


@pytest.mark.parametrize("name", ["int2g32", "int4", "int3g64"])
def test_an_offset_moves_and_its_scale_stays(name):
    rtn, hqq = (one(weights(), name, quantizer).tensors for quantizer in ("rtn", "hqq"))
    assert torch.equal(hqq["scale"], rtn["scale"])
    assert not torch.equal(hqq["offset"], rtn["offset"])


def test_a_symmetric_row_moves_its_scale():
    rtn, hqq = (one(weights(), "int3g64s", quantizer).tensors for quantizer in ("rtn", "hqq"))
    assert not torch.equal(hqq["scale"], rtn["scale"])
    assert "offset" not in hqq


def test_one_step_of_a_group_by_hand(monkeypatch):
    """Two-bit codes, whose covering grid is {-1, 0, 1, 2}."""
    monkeypatch.setattr("bitplan.compress.quantizers.hqq.STEPS", 1)
    weight = torch.tensor([[-1.0, 2.0, *[0.25] * 6, *[1.25] * 6, 0.625, 1.0]])
    [plane] = planes(weight, [Scheme.parse("int2")])
    scale, offset = half_quadratic(plane, slice(16))
    errors = weight[0] - torch.tensor([-1.0, 2.0, *[0.0] * 6, *[1.0] * 6, 1.0, 1.0])
    unit = 4 * errors.abs().mean()
    size = (errors / unit).abs().clamp_min(1e-12)
    borne = (size - size ** (P - 1) / 10).clamp_min(0) * unit * errors.sign()
    assert borne.any()
    expected = 1.0 + (errors - borne).mean()  # the offset is the value of the third code
    assert scale[0] == 1
    assert offset[0] == expected.bfloat16().float()


def test_what_is_left_out_has_no_part():
    weight = random(6, 64)
    first = one(weight, "int3g64+50%", "hqq")
    left_out = first.decode() == 0
    weight[left_out] *= 0.5
    again = one(weight, "int3g64+50%", "hqq")
    assert torch.equal(first.decode(), again.decode())


def test_no_statistics_are_read():
    weight = weights()
    seen = one(weight, "int3g32", "hqq", correlated(200))
    assert torch.equal(one(weight, "int3g32", "hqq").decode(), seen.decode())
    assert [name for name in ("rtn", "hqq", "clip", "dsnot") if not reads_covariance(name)] == [
        "rtn",
        "hqq",
    ]
