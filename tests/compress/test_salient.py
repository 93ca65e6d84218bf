"""Salient columns: which they are, and what GPTQ in OWQ's order makes of them."""

import pytest
import torch
from torch import Tensor

from bitplan.compress import QUANTIZERS, by_rows, render
from bitplan.compress.curvature import Curvature
from bitplan.compress.planes import planes
from bitplan.compress.quantizers.gptq import codes_and_grids
from bitplan.compress.salient import choose_columns
from bitplan.errors import SchemeError
from bitplan.formats import rest_of
from bitplan.schema import Scheme
from rendered import correlated, expected_loss, one, random

OUTLIERS = [3, 40, 41, 77, 100, 101, 150, 167]


def with_outliers() -> tuple[Tensor, Tensor]:
    """A weight and a covariance of inputs of which some are far larger."""
    large = torch.ones(168)
    large[OUTLIERS] = 12.0
    covariance = correlated(168)
    size = large / covariance.diagonal().sqrt()
    return random(64, 168), covariance * size * size.unsqueeze(1)


def test_the_columns_that_lose_most_are_chosen():
    weight, covariance = with_outliers()
    scheme = Scheme.parse("int3g64+2%int8")
    found = choose_columns(weight, scheme, Curvature(covariance=covariance))
    assert found.tolist() == OUTLIERS
    scores = (one(weight, "int3g64", "rtn").decode() - weight).square().sum(0)
    blind = choose_columns(weight, scheme, None)
    assert blind.tolist() == sorted(scores.topk(8).indices.tolist())


@pytest.mark.parametrize("name", ["int3g64+2%int8", "int2g32+2%bf16", "nvfp4+2%int8"])
@pytest.mark.parametrize("quantizer", ["gptq", "quantease", "signround", "clip"])
def test_they_are_worth_more_than_their_bytes(quantizer, name):
    weight, covariance = with_outliers()
    plain = one(weight, name.split("+")[0], quantizer, covariance)
    salient = one(weight, name, quantizer, covariance)
    losses = [expected_loss(weight, packed, covariance) for packed in (plain, salient)]
    assert losses[1] < 0.7 * losses[0]
    assert salient.nbytes < 1.3 * plain.nbytes


def test_rtn_keeps_those_that_it_rounds_worst():
    weight, covariance = with_outliers()
    errors = [
        (one(weight, name, "rtn", covariance).decode() - weight).square().sum()
        for name in ("int3g64", "int3g64+2%int8")
    ]
    assert errors[1] < (1 - 8 / 168) * errors[0]


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_gptq_is_that_of_the_order_with_salient_columns_last(shrinkage):
    """One pass over [rest, salient] with the factor of H in that order, as OWQ does it."""
    weight, covariance = with_outliers()
    packed = render(
        weight,
        [Scheme.parse("int3g32+2%bf16")],
        covariance=covariance,
        shrinkage=torch.tensor(shrinkage),
    ).popitem()[1]
    columns = packed.tensors["columns"].long()
    order = torch.cat([rest_of(columns, 168).long(), columns])
    matrix = Curvature(covariance=covariance, shrinkage=shrinkage).matrix[order][:, order]
    factor = torch.linalg.cholesky(torch.linalg.inv(matrix.double()), upper=True).float()
    [plane] = planes(weight[:, order[:160]], [Scheme.parse("int3g32")])
    inverse = torch.linalg.inv(matrix.double())[:160, :160]
    importance = torch.linalg.inv(inverse).diagonal().float()
    codes, grids = codes_and_grids(plane, importance, factor[:160, :160])
    [base] = plane.packed(codes, grids)
    made = packed.split()
    same = (base.decode() - made["base"].decode()).abs() < 1e-6
    assert same.float().mean() > 0.99  # where a weight is half way, the last bit decides
    # The errors that GPTQ spreads over columns to come, as the factor says.
    error = weight[:, order[:160]] - made["base"].decode()
    spread = torch.linalg.solve_triangular(factor[:160, :160], error, upper=True, left=False)
    expected = weight[:, columns] - spread @ factor[:160, 160:]
    torch.testing.assert_close(made["salient"].decode(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("quantizer", ["gptq", "quantease", "signround"])
def test_salient_columns_are_where_the_loss_is_least(quantizer):
    weight, covariance = with_outliers()
    packed = one(weight, "int3g64+2%bf16", quantizer, covariance)
    columns = packed.tensors["columns"].long()
    rest = rest_of(columns, 168).long()
    matrix = Curvature(covariance=covariance).matrix.double()
    error = (weight[:, rest] - packed.split()["base"].decode()).double()
    # The normal equations of the salient columns, all others as they are.
    moved = error @ matrix[rest][:, columns] @ torch.linalg.inv(matrix[columns][:, columns])
    assert moved.norm() > 0.02 * weight[:, columns].norm()
    found = packed.split()["salient"].decode() - weight[:, columns]
    torch.testing.assert_close(found.double(), moved, rtol=0, atol=2**-7)


@pytest.mark.parametrize("quantizer", ["rtn", "clip"])
def test_without_compensation_they_are_simply_kept(quantizer):
    weight, covariance = with_outliers()
    packed = one(weight, "int3g64+2%bf16", quantizer, covariance)
    columns = packed.tensors["columns"].long()
    assert torch.equal(packed.decode()[:, columns], weight[:, columns].bfloat16().float())


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", ["int3g32+2%int8", "nvfp4+50%+2%bf16", "int2g32+2:4+2%int8+r2"])
def test_it_is_the_same_alone_and_beside_others_and_in_parts(quantizer, name, monkeypatch):
    weight, covariance = with_outliers()
    alone = one(weight, name, quantizer, covariance)
    menu = [Scheme.parse(other) for other in ("int3g32", name, "int2g32+r2", "int3g32+2%int8")]
    together = render(weight, menu, quantizer=quantizer, covariance=covariance)
    assert list(together) == list(dict.fromkeys(menu))
    for key, tensor in alone.tensors.items():
        assert torch.equal(together[menu[1]].tensors[key], tensor)
    monkeypatch.setattr(by_rows, "ROWS_AT_ONCE", 13)
    again = one(weight, name, quantizer, covariance)
    torch.testing.assert_close(again.decode(), alone.decode(), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_experts_that_no_token_reached(quantizer):
    weight, covariance = random(2, 20, 72), torch.stack([correlated(72), torch.zeros(72, 72)])
    for name in ("int3g32+2%int8", "int3g32+r4"):
        packed = one(weight, name, quantizer, covariance)
        error = packed.decode() - weight
        assert error.square().mean() < 0.1 * weight.square().mean()


def test_a_matrix_that_cannot_have_them_is_refused_with_the_reason():
    with pytest.raises(SchemeError, match=r"int3.2%int8 is not for this weight: .*rows have 8"):
        render(random(4, 8), [Scheme.parse("int3+2%int8")])
    with pytest.raises(SchemeError, match=r"not for this weight: 2:4 needs rows in 4s.*62"):
        render(random(4, 70), [Scheme.parse("int3+2:4+2%int8")])
    with pytest.raises(SchemeError, match=r"not for this weight: r4 is below no side of 4 by 70"):
        render(random(4, 70), [Scheme.parse("int3+r4")])
