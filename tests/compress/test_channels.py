"""Columns that are left out: which they are, and what makes up for them."""

import pytest
import torch
from torch import Tensor

from bitplan.compress import QUANTIZERS, by_rows, channels, render
from bitplan.compress.channels import narrow
from bitplan.compress.curvature import Curvature
from bitplan.compress.render import COMPENSATING
from bitplan.formats import kept_of_row
from bitplan.schema import Channels, Scheme
from rendered import correlated, expected_loss, one, random

COLUMNS = 168
SHARE = Channels(percent=20)
GONE = SHARE.left_out(COLUMNS)


def lost(weight: Tensor, kept: Tensor, matrix: Tensor) -> float:
    """What is lost where the columns that stay make up for the others as well as can be."""
    out = torch.ones(COLUMNS, dtype=torch.bool).index_fill(0, kept, False)
    inverse = torch.linalg.inv(matrix.double())[out][:, out]
    gone = weight[:, out].double()
    return (torch.linalg.solve(inverse, gone, left=False) * gone).sum().item()


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_what_stays_makes_up_for_what_goes_as_well_as_can_be(shrinkage):
    weight = random(40, COLUMNS)
    curvature = Curvature(covariance=correlated(COLUMNS), shrinkage=shrinkage)
    left, of_left, kept = narrow(weight, SHARE, curvature, compensate=True)
    assert left.shape == (40, COLUMNS - GONE)
    assert (kept.diff() > 0).all()
    dense = torch.zeros_like(weight).index_copy(1, kept, left)
    matrix = curvature.matrix
    slope = (weight - dense) @ matrix
    assert slope[:, kept].norm() < 1e-3 * (weight @ matrix).norm()
    found = (((weight - dense) @ matrix) * (weight - dense)).sum().item()
    assert found == pytest.approx(lost(weight, kept, matrix), rel=1e-3)
    assert of_left is not None
    assert torch.equal(of_left.covariance, matrix[kept][:, kept])
    assert of_left.damping == 0  # it has been damped


def test_one_at_a_time_as_the_surgeon_does_it(monkeypatch):
    monkeypatch.setattr(channels, "ROUNDS", GONE)
    weight, matrix = random(40, COLUMNS), Curvature(covariance=correlated(COLUMNS)).matrix
    stay = list(range(COLUMNS))
    for _ in range(GONE):
        less = [[column for column in stay if column != one] for one in stay]
        losses = [lost(weight, torch.tensor(some), matrix) for some in less]
        stay = less[losses.index(min(losses))]
    curvature = Curvature(covariance=correlated(COLUMNS))
    assert narrow(weight, SHARE, curvature, compensate=True)[2].tolist() == stay


def test_of_two_columns_that_say_the_same_one_stays():
    inputs = random(400, COLUMNS)
    inputs[:, 1] = inputs[:, 0] + 0.01 * random(400, seed=3)
    weight = random(40, COLUMNS)
    weight[:, :2] *= 0.6  # heard less than any other, but more where it stands for both
    curvature = Curvature(covariance=inputs.t() @ inputs)
    *_, kept = narrow(weight, Channels(percent=5), curvature, compensate=True)
    assert len({0, 1} & set(kept.tolist())) == 1
    *_, kept = narrow(weight, Channels(percent=5), curvature, compensate=False)
    assert not {0, 1} & set(kept.tolist())


def test_without_compensation_the_least_heard_go_and_the_others_are_as_they_were():
    weight, covariance = random(40, COLUMNS), correlated(COLUMNS)
    for curvature, importance in (
        (Curvature(covariance=covariance), covariance.diagonal()),
        (None, torch.ones(COLUMNS)),
    ):
        left, of_left, kept = narrow(weight, SHARE, curvature, compensate=False)
        missed = weight.square().sum(0) * importance
        assert set(kept.tolist()) == set(missed.topk(COLUMNS - GONE).indices.tolist())
        assert torch.equal(left, weight[:, kept])
        if of_left is not None:
            assert torch.equal(of_left.covariance, covariance[kept][:, kept])


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", ["int4g32+20%ch", "nvfp4+50%+20%ch", "int3g32+20%ch+2%int8+r2"])
def test_just_those_are_zero_and_the_rest_is_the_narrower_matrix(quantizer, name):
    weight, covariance = random(24, COLUMNS), correlated(COLUMNS)
    packed = one(weight, name, quantizer, covariance)
    compensate = quantizer in COMPENSATING
    curvature = None if quantizer in ("rtn", "hqq") else Curvature(covariance=covariance)
    left, of_left, kept = narrow(weight, SHARE, curvature, compensate=compensate)
    found = kept_of_row(packed.tensors["kept"], COLUMNS, COLUMNS - GONE)
    assert torch.equal(found.long(), kept)
    decoded = packed.decode()
    out = torch.ones(COLUMNS, dtype=torch.bool).index_fill(0, kept, False)
    assert out.sum() == GONE
    assert not decoded[:, out].any()
    if not compensate:  # else H for what stays has been damped, and `render` would do it again
        of_h = None if of_left is None else of_left.covariance
        alone = one(left, name.replace("+20%ch", ""), quantizer, of_h)
        assert torch.equal(decoded[:, kept], alone.decode())


def test_compensation_is_worth_it():
    weight, covariance = random(64, COLUMNS), correlated(COLUMNS)
    losses = {
        quantizer: expected_loss(weight, one(weight, "int8g32+20%ch", quantizer, h), covariance)
        for quantizer, h in (("rtn", None), ("clip", covariance), ("gptq", covariance))
    }
    assert losses["gptq"] < 0.4 * losses["clip"] < 0.4 * losses["rtn"]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", ["int3g32+20%ch", "int2g32+2:4+20%ch+2%int8+r2"])
def test_it_is_the_same_alone_and_beside_others_and_in_parts(quantizer, name, monkeypatch):
    weight, covariance = random(24, COLUMNS), correlated(COLUMNS)
    alone = one(weight, name, quantizer, covariance)
    menu = [Scheme.parse(other) for other in ("int3g32", name, "int4g32+20%ch", "int3g32+10%ch")]
    together = render(weight, menu, quantizer=quantizer, covariance=covariance)
    assert list(together) == menu
    for key, tensor in alone.tensors.items():
        assert torch.equal(together[menu[1]].tensors[key], tensor)
    monkeypatch.setattr(by_rows, "ROWS_AT_ONCE", 13)
    again = one(weight, name, quantizer, covariance)
    assert torch.equal(again.tensors["kept"], alone.tensors["kept"])
    torch.testing.assert_close(again.decode(), alone.decode(), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_experts_that_no_token_reached(quantizer):
    weight, covariance = random(2, 20, 72), torch.stack([correlated(72), torch.zeros(72, 72)])
    packed = one(weight, "int4g32+20%ch", quantizer, covariance)
    zero = (packed.decode() == 0).all(1).sum(1)
    assert zero.tolist() == [Channels(percent=20).left_out(72)] * 2
    least = weight[1].square().sum(0).topk(56).indices.sort().values
    if quantizer in COMPENSATING:  # all columns weigh alike, and none can make up for another
        assert torch.equal(kept_of_row(packed.tensors["kept"][1], 72, 56).long(), least)
