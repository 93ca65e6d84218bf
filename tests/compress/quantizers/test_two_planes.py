"""Planes that are fitted together: beside all codes there are, and beside one plane."""

import itertools

import pytest
import torch
from torch import Tensor

from bitplan.compress import render
from bitplan.compress.two_plane import TwoPlane
from bitplan.formats import read_number
from bitplan.formats.two_planes import VALUES, units
from bitplan.schema import Scheme
from rendered import correlated, expected_loss, one, random

NAMES = [f"{format}{group}" for format in VALUES for group in ("", "g16", "g64d")]


def least_of_all(weight: Tensor, format: str, importance: Tensor) -> Tensor:
    """The least weighted error of each row: least squares for every choice of codes there is."""
    root = importance.double().sqrt()
    codes = torch.tensor([*itertools.product(range(len(VALUES[format]) ** 2), repeat=len(root))])
    planes = units(format).double()[:, codes].permute(1, 2, 0) * root[:, None]
    basis = planes @ torch.linalg.pinv(planes)  # [choices, in, in], onto what both planes span
    left = weight.double() * root - (weight.double() * root) @ basis.mT
    return left.square().sum(2).amin(0)


@pytest.mark.parametrize("format", VALUES)
def test_the_fit_is_close_to_the_best_there_is(format):
    weight, importance = random(200, 4), torch.tensor([1.0, 4.0, 0.5, 2.0])
    plane = TwoPlane(weight, Scheme.parse(format))
    grid = plane.search(slice(0, 4), importance)
    values = plane.codes_and_values(plane.work, grid)[1].t()[:200]
    error = ((values - weight).square() * importance).sum(1)
    whole = (weight.square() * importance).sum(1)
    best = least_of_all(weight, format, importance)
    # Scales are rounded to bfloat16, which alone leaves some thousandths of a weight.
    assert (error >= best * (1 - 1e-4) - 1e-6).all()
    assert (error <= best + 0.15 * whole).float().mean() > 0.9
    assert error.mean() < best.mean() + 0.05 * whole.mean()


@pytest.mark.parametrize("quantizer", ["rtn", "clip"])
@pytest.mark.parametrize("name", NAMES)
def test_each_weight_gets_the_nearest_value_of_its_group(quantizer, name):
    weight = random(7, 100) * 0.05 + 0.02
    packed = one(weight, name, quantizer, correlated(100))
    scheme, tensors = packed.scheme, packed.tensors
    scale, second = (read_number(scheme, tensors, key).double() for key in ("scale", "second"))
    first, other = units(scheme.format).double()[..., None, None]
    levels = (first * scale + other * second).repeat_interleave(scheme.group_size or 100, dim=2)
    nearest = (levels[..., :100] - weight).abs().amin(0)
    assert ((packed.decode() - weight).abs() <= nearest * (1 + 1e-4) + 1e-7).all()


@pytest.mark.parametrize("name", ["ternary2g64", "ternary2", "binary2g16"])
def test_a_sum_of_two_planes_is_found_or_nearly(name):
    scheme, generator = Scheme.parse(name), torch.Generator().manual_seed(0)
    first, other = units(scheme.format)
    codes = torch.randint(0, len(first), (500, scheme.group_size or 64), generator=generator)
    ratio = torch.rand(500, 1, generator=generator) * 0.9 + 0.05
    if scheme.format == "binary2":
        ratio *= torch.where(torch.rand(500, 1, generator=generator) < 0.5, -1, 1)
    weight = first[codes] + other[codes] * ratio.bfloat16().float()
    error = (one(weight, name, "clip").decode() - weight).square().sum(1)
    assert (error == 0).float().mean() > 0.5
    assert error.sum() < 2e-3 * weight.square().sum()


@pytest.mark.parametrize("name", ["ternary2g32", "binary2g32"])
def test_turns_lower_the_error(name, monkeypatch):
    plane, errors = TwoPlane(random(50, 32), Scheme.parse(name)), []
    for rounds in range(3):
        monkeypatch.setattr("bitplan.compress.two_plane.ROUNDS", rounds)
        values = plane.codes_and_values(plane.work, plane.full(slice(0, 32)))[1]
        errors.append((values - plane.work).square().sum(0))
    assert all((after <= before).all() for before, after in itertools.pairwise(errors))
    assert errors[-1].sum() < 0.9 * errors[0].sum()
    grid = plane.search(slice(0, 32), torch.ones(32))
    values = plane.codes_and_values(plane.work, grid)[1]
    assert (values - plane.work).square().sum() < errors[-1].sum()


@pytest.mark.parametrize("sign", [1, -1], ids=["above zero", "below zero"])
def test_planes_of_bits_are_for_either_side_of_zero(sign):
    weight = sign * (random(30, 64).abs() + 1)
    loss = {
        name: (one(weight, name, "clip").decode() - weight).square().sum()
        for name in ("binary2", "ternary", "sign")
    }
    assert loss["binary2"] < 0.6 * loss["ternary"]
    assert loss["binary2"] < 0.6 * loss["sign"]


@pytest.mark.parametrize("quantizer", ["rtn", "clip", "gptq", "quantease", "hqq"])
def test_a_second_plane_lowers_the_loss(quantizer):
    weight, covariance = random(40, 192), correlated(192)
    names = ["ternaryg64", "ternary2g64d", "ternary2g64", "signg64", "binary2g64"]
    schemes = [Scheme.parse(name) for name in names]
    rendered = render(weight, schemes, quantizer=quantizer, covariance=covariance)
    loss = {str(s): expected_loss(weight, packed, covariance) for s, packed in rendered.items()}
    assert loss["ternary2g64"] < 0.5 * loss["ternaryg64"]
    assert loss["ternary2g64"] < 1.05 * loss["ternary2g64d"]
    assert loss["binary2g64"] < 0.7 * loss["signg64"]


@pytest.mark.parametrize("name", NAMES)
def test_scales_come_in_an_order(name):
    for quantizer in ("rtn", "clip", "gptq"):
        packed = one(random(20, 130), name, quantizer, correlated(130))
        first, second = (
            read_number(packed.scheme, packed.tensors, key) for key in ("scale", "second")
        )
        if packed.scheme.double:  # steps of their own round them
            first = first * (1 + 2**-6)
        assert (first >= second).all()
        assert packed.scheme.format == "binary2" or (second >= 0).all()


@pytest.mark.parametrize("name", ["ternary2g32", "binary2g32d"])
def test_the_refit_of_quantease_lowers_the_loss_with_codes_as_they_are(name):
    weight, covariance = random(30, 32), correlated(32)
    plane = TwoPlane(weight, Scheme.parse(name))
    group = slice(0, 32)
    grid = plane.full(group)
    codes, values = plane.codes_and_values(plane.work, grid)
    slope = covariance @ (plane.work - values)
    after = plane.refit(group, grid, values, slope, covariance)
    first, other = units(plane.scheme.format)[:, codes.long()]
    moved = first * after[0] + other * after[1]
    torch.testing.assert_close(plane.on_another(values, grid, after), moved)
    losses = [
        ((covariance @ error) * error).sum(0) for error in (plane.work - values, plane.work - moved)
    ]
    assert (losses[1] <= losses[0] * (1 + 1e-5)).all()
    assert losses[1].sum() < 0.95 * losses[0].sum()
