"""DSnoT: swaps keep the counts, and lower what they say they lower."""

import pytest
import torch
from torch import Tensor

from bitplan.compress import render
from bitplan.compress.curvature import Curvature
from bitplan.compress.sparsifiers import dsnot, keep, wanda
from bitplan.schema import Scheme, Sparsity
from rendered import correlated, expected_loss, one, random

COLUMNS = 72


def found(
    weight: Tensor, sparsity: Sparsity, covariance: Tensor, shrinkage: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Wanda's mask and DSnoT's [in, rows], and the H that it reads."""
    curvature = Curvature(covariance=covariance, shrinkage=shrinkage)
    work = weight.t().contiguous()
    kept = sparsity.columns(len(work))
    first = keep(wanda(work, curvature.importance), sparsity, kept)
    return first, dsnot(work, first, sparsity, curvature.matrix), curvature.matrix


def losses(weight: Tensor, mask: Tensor, matrix: Tensor) -> Tensor:
    lacking = (weight * ~mask.t()).double()
    return ((lacking @ matrix.double()) * lacking).sum(1)


@pytest.mark.parametrize("name", ["50%", "10%", "95%", "2:4", "1:2", "5:8"])
@pytest.mark.parametrize("shrinkage", [0.0, 0.5])
def test_counts_stay_and_no_row_loses_more(name, shrinkage):
    weight, sparsity = random(40, COLUMNS), Sparsity.parse(name)
    first, mask, matrix = found(weight, sparsity, correlated(COLUMNS), shrinkage)
    assert torch.equal(mask.sum(0), first.sum(0))
    if sparsity.block:
        assert (mask.unflatten(0, (-1, sparsity.block)).sum(1) == sparsity.kept).all()
    before, after = (losses(weight, each, matrix) for each in (first, mask))
    assert (after <= before * (1 + 1e-6)).all()
    assert after.sum() < 0.999 * before.sum()


def test_a_swap_by_hand():
    """The third column copies the first: leaving both out with like signs costs most."""
    weight = torch.tensor([[1.0, 1.2, 1.0, -1.1]])
    covariance = torch.eye(4)
    covariance[0, 2] = covariance[2, 0] = 0.9
    first = torch.tensor([[False], [True], [False], [True]])
    covariance[0, 3] = covariance[3, 0] = 0.5
    mask = dsnot(weight.t(), first, Sparsity.parse("50%"), covariance)
    # The first comes back; the last, of the other sign, makes up for the third.
    assert mask.flatten().tolist() == [True, True, False, False]


def test_without_correlations_nothing_moves():
    diagonal = torch.diag(torch.logspace(-2, 2, COLUMNS))
    first, mask, _ = found(random(9, COLUMNS), Sparsity.parse("50%"), diagonal)
    assert torch.equal(first, mask)


@pytest.mark.parametrize("name", ["50%", "2:4"])
def test_rows_of_zeros_and_columns_that_were_never_seen(name):
    weight, covariance = random(9, COLUMNS), correlated(COLUMNS)
    weight[3], weight[5, 7:40] = 0, 0
    covariance[:30], covariance[:, :30] = 0, 0
    direction = random(COLUMNS, 1)
    for h in (covariance, direction @ direction.t(), torch.zeros(COLUMNS, COLUMNS)):
        first, mask, matrix = found(weight, Sparsity.parse(name), h)
        assert torch.equal(mask.sum(0), first.sum(0))
        before, after = (losses(weight, each, matrix) for each in (first, mask))
        assert (after <= before * (1 + 1e-6)).all()
        decoded = one(weight, f"int4g32+{name}", "dsnot", h).decode()
        assert decoded.isfinite().all()
        assert not decoded[3].any()


@pytest.mark.parametrize("name", ["int8g16+50%", "int8g64+2:4", "fp8g32+60%"])
def test_rendered_it_is_better_than_wanda(name):
    for seed in range(4):
        weight, covariance = random(32, 104, seed=seed), correlated(104, seed=seed)
        wanda_, ours = (
            expected_loss(weight, one(weight, name, quantizer, covariance), covariance)
            for quantizer in ("clip", "dsnot")
        )
        assert ours < wanda_


@pytest.mark.parametrize("name", ["int3g32", "nf4g16", "bitmod3g32", "int4g16d"])
def test_of_a_dense_scheme_it_is_clip(name):
    weight, covariance = random(10, 100), correlated(100)
    ours, clip = (one(weight, name, quantizer, covariance) for quantizer in ("dsnot", "clip"))
    assert torch.equal(ours.decode(), clip.decode())


def test_without_statistics_it_is_clip():
    weight = random(10, 100)
    ours, clip = (one(weight, "int4g16+2:4", quantizer) for quantizer in ("dsnot", "clip"))
    assert torch.equal(ours.decode(), clip.decode())


def test_experts_are_swapped_each_on_its_own():
    weight, scheme = random(3, 8, 32), Scheme.parse("int4g16+50%")
    covariance = torch.stack([correlated(32, seed) for seed in range(3)])
    [packed] = render(weight, [scheme], quantizer="dsnot", covariance=covariance).values()
    for index in range(3):
        alone = one(weight[index], str(scheme), "dsnot", covariance[index])
        assert torch.equal(packed.decode()[index], alone.decode())
