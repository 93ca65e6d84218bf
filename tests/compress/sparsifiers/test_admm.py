"""ADMM: weights that are left make up for those that are not, as well as any could."""

import pytest
import torch
from torch import Tensor

from bitplan.compress import render
from bitplan.compress.curvature import Curvature
from bitplan.compress.planes import planes
from bitplan.compress.quantizers.gptq import codes_and_grids
from bitplan.compress.sparsifiers import admm, keep, wanda
from bitplan.schema import Scheme, Sparsity
from rendered import correlated, expected_loss, one, random

COLUMNS = 72
SPARSITIES = ["50%", "20%", "90%", "2:4", "1:2", "6:8"]


def loss(change: Tensor, matrix: Tensor) -> float:
    """tr(dW H dW') of dW [in, rows]."""
    change = change.double()
    return ((matrix.double() @ change) * change).sum().item()


def best_of_mask(work: Tensor, mask: Tensor, matrix: Tensor) -> Tensor:
    """The weights of least loss that are zero where the mask says, row by row."""
    work, matrix, best = work.double(), matrix.double(), torch.zeros_like(work).double()
    for row in range(work.shape[1]):
        kept = mask[:, row]
        best[kept, row] = torch.linalg.solve(matrix[kept][:, kept], matrix[kept] @ work[:, row])
    return best


@pytest.mark.parametrize("name", SPARSITIES)
@pytest.mark.parametrize("shrinkage", [0.0, 0.5])
def test_it_loses_less_than_wanda_alone_and_little_more_than_the_best(name, shrinkage):
    sparsity = Sparsity.parse(name)
    work = random(COLUMNS, 24)
    curvature = Curvature(covariance=correlated(COLUMNS), shrinkage=shrinkage)
    weights, mask = admm(work.clone(), sparsity, curvature.matrix)
    assert not weights[~mask].any()
    assert (mask.sum(0) == sparsity.columns(COLUMNS)).all()
    if sparsity.block:
        assert (mask.unflatten(0, (-1, sparsity.block)).sum(1) == sparsity.kept).all()
    alone = keep(wanda(work, curvature.importance), sparsity, sparsity.columns(COLUMNS))
    ours = loss(weights - work, curvature.matrix)
    assert ours < 0.95 * loss(work * ~alone, curvature.matrix)
    assert ours < 1.1 * loss(best_of_mask(work, mask, curvature.matrix) - work, curvature.matrix)
    # The mask is better too, not only what is made of it.
    assert ours < loss(best_of_mask(work, alone, curvature.matrix) - work, curvature.matrix)


@pytest.mark.parametrize("name", SPARSITIES)
def test_without_correlations_it_is_wanda(name):
    work, sparsity = random(COLUMNS, 9), Sparsity.parse(name)
    diagonal = torch.logspace(-2, 2, COLUMNS)
    weights, mask = admm(work.clone(), sparsity, torch.diag(diagonal))
    expected = keep(wanda(work, diagonal), sparsity, sparsity.columns(COLUMNS))
    assert torch.equal(mask, expected)
    torch.testing.assert_close(weights, work * expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["50%", "2:4"])
def test_rows_of_zeros_and_columns_that_were_never_seen(name):
    weight, covariance = random(9, COLUMNS), correlated(COLUMNS)
    weight[3], weight[5, 7:40] = 0, 0
    covariance[:30], covariance[:, :30] = 0, 0
    direction = random(COLUMNS, 1)
    for h in (covariance, direction @ direction.t(), torch.zeros(COLUMNS, COLUMNS)):
        packed, clip = (one(weight, f"int8g32+{name}", q, h) for q in ("admm", "clip"))
        decoded = packed.decode()
        assert decoded.isfinite().all()
        assert not decoded[3].any()
        assert expected_loss(weight, packed, h) <= expected_loss(weight, clip, h) * 1.001


@pytest.mark.parametrize("name", ["int8g16+50%", "int8g64+2:4", "int4g32+50%", "nf4g32+70%"])
def test_rendered_it_is_better_than_sparsegpt(name):
    ratios = []
    for seed in range(4):
        weight, covariance = random(32, 104, seed=seed), correlated(104, seed=seed)
        gptq, ours = (
            expected_loss(weight, one(weight, name, quantizer, covariance), covariance)
            for quantizer in ("gptq", "admm")
        )
        ratios.append(ours / gptq)
    assert sum(ratios) / len(ratios) < 0.97


def test_a_mask_that_is_there_stays_through_the_pass():
    curvature = Curvature(covariance=correlated(COLUMNS))
    [plane] = planes(random(8, COLUMNS), [Scheme.parse("int4g16+50%")])
    mask = keep(-plane.work.abs(), Sparsity.parse("50%"), COLUMNS // 2)
    plane.prune(mask.clone())
    codes_and_grids(plane, curvature.importance, curvature.inverse_factor)
    assert torch.equal(plane.mask, mask)


@pytest.mark.parametrize("name", ["int3g32", "nf4g16", "bitmod3g32", "int4g16d"])
def test_of_a_dense_scheme_it_is_gptq(name):
    weight, covariance = random(10, 100), correlated(100)
    ours, gptq = (one(weight, name, quantizer, covariance) for quantizer in ("admm", "gptq"))
    assert torch.equal(ours.decode(), gptq.decode())


def test_without_statistics_it_is_clip():
    weight = random(10, 100)
    ours, clip = (one(weight, "int4g16+2:4", quantizer) for quantizer in ("admm", "clip"))
    assert torch.equal(ours.decode(), clip.decode())


def test_experts_are_solved_each_on_its_own():
    weight, scheme = random(3, 8, 32), Scheme.parse("int4g16+50%")
    covariance = torch.stack([correlated(32, seed) for seed in range(3)])
    [packed] = render(weight, [scheme], quantizer="admm", covariance=covariance).values()
    for index in range(3):
        alone = one(weight[index], str(scheme), "admm", covariance[index])
        assert torch.equal(packed.decode()[index], alone.decode())
