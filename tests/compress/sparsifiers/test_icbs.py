"""iCBS: what goes and what comes back together, the others making up for it."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from bitplan.compress import by_rows
from bitplan.compress.curvature import Curvature
from bitplan.compress.sparsifiers import admm, icbs, keep, wanda
from bitplan.compress.sparsifiers.icbs import _candidates, _surgery, settled
from bitplan.schema import Sparsity
from rendered import correlated, expected_loss, one, random

COLUMNS = 72
SPARSITIES = ["50%", "20%", "90%", "3%", "2:4", "1:2", "6:8"]


def loss(change: Tensor, matrix: Tensor) -> Tensor:
    """d H d' of every row d of dW [rows, in]."""
    change = change.double()
    return ((change @ matrix.double()) * change).sum(1)


def best_of_mask(weight: Tensor, kept: Tensor, matrix: Tensor) -> Tensor:
    """The weights of least loss that are zero where the mask says; [rows, in]."""
    weight, matrix, best = weight.double(), matrix.double(), torch.zeros_like(weight).double()
    for row, mask in enumerate(kept):
        best[row, mask] = torch.linalg.solve(matrix[mask][:, mask], matrix[mask] @ weight[row])
    return best


@pytest.mark.parametrize("name", SPARSITIES)
@pytest.mark.parametrize("shrinkage", [0.0, 0.5])
def test_no_row_loses_more_than_by_admm(name, shrinkage):
    sparsity, weight = Sparsity.parse(name), random(24, COLUMNS)
    matrix = Curvature(covariance=correlated(COLUMNS), shrinkage=shrinkage).matrix
    work = weight.t().contiguous()
    first, _ = admm(work.clone(), sparsity, matrix)
    weights, mask = icbs(work.clone(), sparsity, matrix)
    assert not weights[~mask].any()
    assert (mask.sum(0) == sparsity.columns(COLUMNS)).all()
    if sparsity.block:
        assert (mask.unflatten(0, (-1, sparsity.block)).sum(1) == sparsity.kept).all()
    before, after = (loss(one.t() - weight, matrix) for one in (first, weights))
    assert (after <= before * (1 + 1e-5)).all()
    best = loss(best_of_mask(weight, mask.t(), matrix) - weight, matrix)
    assert after.sum() < 1.01 * best.sum()


@pytest.mark.parametrize(("name", "left"), [("50%", 0.97), ("2:4", 0.97), ("4:8", 0.97)])
def test_its_masks_are_better_than_those_of_admm(name, left):
    sparsity, ratios = Sparsity.parse(name), []
    for seed in range(4):
        weight = random(32, COLUMNS, seed=seed)
        matrix = Curvature(covariance=correlated(COLUMNS, seed)).matrix
        masks = [made(weight.t().clone(), sparsity, matrix)[1].t() for made in (admm, icbs)]
        best = [loss(best_of_mask(weight, mask, matrix) - weight, matrix).sum() for mask in masks]
        ratios.append((best[1] / best[0]).item())
    assert sum(ratios) / len(ratios) < left


def test_of_few_weights_it_finds_nearly_the_best_mask():
    weight, sparsity = random(30, 10), Sparsity.parse("50%")
    matrix = Curvature(covariance=correlated(10)).matrix
    least = torch.full((30,), torch.inf, dtype=torch.float64)
    for columns in combinations(range(10), 5):
        kept = torch.zeros(30, 10, dtype=torch.bool)
        kept[:, list(columns)] = True
        least = torch.minimum(least, loss(best_of_mask(weight, kept, matrix) - weight, matrix))
    found = loss(icbs(weight.t().clone(), sparsity, matrix)[0].t() - weight, matrix)
    first = loss(admm(weight.t().clone(), sparsity, matrix)[0].t() - weight, matrix)
    assert (found >= least * (1 - 1e-5)).all()
    assert found.sum() - least.sum() < 0.5 * (first.sum() - least.sum())


def test_a_problem_is_solved_as_the_surgeon_does():
    """u and P without some of the candidates, one after another, by the definition."""
    rows, half = 5, 4
    among = torch.stack([correlated(2 * half, seed) for seed in range(rows)])
    free, takes_part = random(rows, 2 * half), torch.ones(rows, half, dtype=torch.bool)
    takes_part[3, 2:], takes_part[4, 1:] = False, False
    left, inverse = free.clone(), among.clone()
    gone = _surgery(left, inverse, takes_part, pairs=False)
    assert (gone.sum(1) == half).all()
    for row in range(rows):
        u, p = free[row].double(), among[row].double()
        out: list[int] = []
        must = [half + i for i in range(half) if not takes_part[row, i]]
        may = [i for i in range(2 * half) if i >= half or takes_part[row, i]]
        for _ in range(half):
            some = [i for i in must if i not in out] or [i for i in may if i not in out]
            score = torch.tensor([(u[i] ** 2 / p[i, i]).item() for i in some])
            out.append(some[int(score.argmin())])
            share = torch.linalg.solve(among[row].double()[out][:, out], among[row].double()[out])
            u = free[row].double() - free[row].double()[out] @ share
            p = among[row].double() - among[row].double()[:, out] @ share
        if must:  # whatever the order in which those go that must
            assert set(must) <= set(out)
        assert gone[row].nonzero().squeeze(1).tolist() == sorted(out)
        torch.testing.assert_close(left[row, ~gone[row]], u[~gone[row]].float())


def test_in_blocks_one_of_each_pair_goes():
    among = torch.stack([correlated(12, seed) for seed in range(7)])
    takes_part = torch.ones(7, 6, dtype=torch.bool)
    takes_part[2, 3:] = False
    gone = _surgery(random(7, 12), among, takes_part, pairs=True)
    assert (gone[:, :6] ^ gone[:, 6:]).all()
    assert not gone[2, 3:6].any()  # what takes no part is as it was


@pytest.mark.parametrize("name", ["2:4", "50%"])
def test_candidates_are_kept_and_left_out_ones(name):
    sparsity, weight = Sparsity.parse(name), random(COLUMNS, 9)
    kept = keep(weight.abs(), sparsity, COLUMNS // 2).t()
    cost, gain = random(9, COLUMNS, seed=1).abs(), random(9, COLUMNS, seed=2).abs()
    goes, comes = _candidates(
        cost.masked_fill(~kept, torch.inf), gain.masked_fill(kept, -torch.inf), sparsity
    )
    assert kept.gather(1, goes).all()
    assert not kept.gather(1, comes).any()
    if sparsity.block:
        assert torch.equal(goes // 4, comes // 4)
    for both in (goes, comes):
        assert all(len(set(row)) == len(row) for row in both.tolist())


def test_settled_weights_are_those_of_least_loss():
    weight, matrix = random(12, COLUMNS), Curvature(covariance=correlated(COLUMNS)).matrix
    kept = keep(wanda(weight.t(), matrix.diagonal()), Sparsity.parse("50%"), 36).t()
    start = weight * kept
    found = settled(weight, start.clone(), kept, matrix, steps=80)
    assert not found[~kept].any()
    expected = best_of_mask(weight, kept, matrix).float()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    losses = [
        loss(settled(weight, start.clone(), kept, matrix, steps) - weight, matrix).sum()
        for steps in range(6)
    ]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("name", ["50%", "2:4"])
def test_rows_of_zeros_and_columns_that_were_never_seen(name):
    weight, covariance = random(9, COLUMNS), correlated(COLUMNS)
    weight[3], weight[5, 7:40] = 0, 0
    covariance[:30], covariance[:, :30] = 0, 0
    direction = random(COLUMNS, 1)
    for h in (covariance, direction @ direction.t(), torch.zeros(COLUMNS, COLUMNS)):
        packed, clip = (one(weight, f"int8g32+{name}", q, h) for q in ("icbs", "clip"))
        decoded = packed.decode()
        assert decoded.isfinite().all()
        assert not decoded[3].any()
        assert expected_loss(weight, packed, h) <= expected_loss(weight, clip, h) * 1.001


@pytest.mark.parametrize("name", ["int8g16+50%", "int8g64+2:4", "nf4g32+70%"])
def test_rendered_it_is_better_than_admm(name):
    ratios = []
    for seed in range(4):
        weight, covariance = random(32, 104, seed=seed), correlated(104, seed=seed)
        first, ours = (
            expected_loss(weight, one(weight, name, quantizer, covariance), covariance)
            for quantizer in ("admm", "icbs")
        )
        ratios.append(ours / first)
    assert sum(ratios) / len(ratios) < 1


@pytest.mark.parametrize("name", ["int3g32", "nf4g16"])
def test_of_a_dense_scheme_it_is_gptq_and_without_statistics_clip(name):
    weight, covariance = random(10, 100), correlated(100)
    ours, gptq = (one(weight, name, quantizer, covariance) for quantizer in ("icbs", "gptq"))
    assert torch.equal(ours.decode(), gptq.decode())
    ours, clip = (one(weight, f"{name}+2:4", quantizer) for quantizer in ("icbs", "clip"))
    assert torch.equal(ours.decode(), clip.decode())


def test_rows_do_not_know_of_one_another(monkeypatch):
    weight, covariance = random(30, COLUMNS), correlated(COLUMNS)
    whole = one(weight, "int8g32+50%", "icbs", covariance)
    monkeypatch.setattr(by_rows, "ROWS_AT_ONCE", 13)
    again = one(weight, "int8g32+50%", "icbs", covariance)
    torch.testing.assert_close(again.decode(), whole.decode(), rtol=1e-3, atol=1e-3)
