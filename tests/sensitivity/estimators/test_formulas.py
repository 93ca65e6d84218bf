"""Each estimator on a layer so small that its formula can be written out."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bitplan.sensitivity.estimators import get_estimator
from discounted import discounted

pytestmark = pytest.mark.usefixtures("as_they_are")

TOKENS = 3 * 24


@pytest.fixture
def weights() -> tuple[Tensor, Tensor]:
    """A weight [5, 6], and an error of it."""
    generator = torch.Generator().manual_seed(9)
    return tuple(torch.randn(5, 6, generator=generator) * size for size in (1.0, 0.1))


def gradient_covariance(error, weight, x, g):
    h = (x * g.square().mean(1, keepdim=True)).T @ x / TOKENS
    by_output = g.square().sum(0) / g.square().sum(0).mean()
    return 0.5 * torch.trace(error @ discounted(h) @ error.T @ torch.diag(by_output))


def fisher(error, weight, x, g):
    f = sum(torch.outer(gt.square(), xt.square()) for xt, gt in zip(x, g, strict=True)) / TOKENS
    return 0.5 * (f * error.square()).sum()


def kronecker(error, weight, x, g):
    # vec by rows: dW_oi dW_pj G_op A_ij.
    whole = torch.kron(g.T @ g / TOKENS, x.T @ x / TOKENS)
    return 0.5 * error.flatten() @ whole @ error.flatten()


def output_error(error, weight, x, g):
    return (x @ error.T).square().sum(1).mean()


def weight_error(error, weight, x, g):
    return error.square().sum() / weight.square().sum()


def sqnr(error, weight, x, g):
    signal, noise = weight.square().sum().item(), error.square().sum().item()
    return torch.tensor(10 * math.log10((signal + noise) / signal))


def outlier_ratio(error, weight, x, g):
    scores = weight.abs() * x.norm(dim=0)
    share = (scores > 5 * scores.mean()).double().mean()
    return (1 + share) * weight_error(error, weight, x, g)


def weight_outliers(error, weight, x, g):
    z = (weight - weight.mean()) / weight.std()
    return (z > 1).double().mean() * weight_error(error, weight, x, g)


def grouped(error, weight, x, g):
    total = 0.0
    for rows in ([0, 1], [2], [3], [4]):  # 5 outputs in 4 groups
        h = (x * g[:, rows].square().mean(1, keepdim=True)).T @ x / TOKENS
        total += 0.5 * torch.trace(error[rows] @ discounted(h) @ error[rows].T)
    return total


FORMULAS = {
    "grouped_gradient_covariance": grouped,
    "gradient_covariance": gradient_covariance,
    "fisher_diagonal": fisher,
    "fisher_sampled": fisher,
    "kronecker_fisher": kronecker,
    "output_error": output_error,
    "weight_error": weight_error,
    "sqnr": sqnr,
    "outlier_ratio": outlier_ratio,
    "weight_outliers": weight_outliers,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_loss_is_the_formula(name, weights, some_sequences, statistics_of, part_of):
    weight, error = weights
    weight[2, 3] = 40.0  # an outlier
    statistics = statistics_of((5, 6), some_sequences)
    x, g = (torch.cat(tensors).double() for tensors in zip(*some_sequences, strict=True))
    expected = FORMULAS[name](error.double(), weight.double(), x, g).item()
    found = get_estimator(name).judge(part_of(error, weight, statistics))
    assert expected > 0
    assert found.loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", FORMULAS)
def test_losses_by_sequence_have_the_loss_as_their_mean(
    name, weights, some_sequences, statistics_of, part_of
):
    weight, error = weights
    weight[2, 3] = 40.0
    found = get_estimator(name).judge(part_of(error, weight, statistics_of((5, 6), some_sequences)))
    if len(found.by_sequence):
        assert found.by_sequence.mean() == pytest.approx(found.loss, rel=1e-9)
        assert len(found.by_sequence) == 3
    else:
        assert found.standard_error == 0


def test_outliers_rank_equal_errors_and_none_is_free(some_sequences, statistics_of, part_of):
    statistics = statistics_of((5, 6), some_sequences)
    losses = []
    for outliers in range(3):  # 7 would raise the mean until none is above
        weight = torch.ones(5, 6)
        weight[range(outliers), range(outliers)] = 40.0
        error = torch.full((5, 6), 0.1) * weight.norm() / 30**0.5  # of equal relative size
        losses.append(get_estimator("outlier_ratio").judge(part_of(error, weight, statistics)).loss)
    assert losses == pytest.approx([0.01 * (1 + outliers / 30) for outliers in range(3)])


@pytest.mark.parametrize("name", ["gradient_covariance", "fisher_diagonal"])
def test_a_diagonal_error_has_exact_losses_by_sequence(
    name, some_sequences, statistics_of, part_of
):
    error = torch.zeros(5, 6)
    error[:, 2] = 0.1  # of one column: the diagonals say all of it
    statistics = statistics_of((5, 6), some_sequences)
    found = get_estimator(name).judge(part_of(error, torch.ones(5, 6), statistics))
    alone = [
        get_estimator(name)
        .judge(part_of(error, torch.ones(5, 6), statistics_of((5, 6), [one])))
        .loss
        for one in some_sequences
    ]
    assert np.allclose(found.by_sequence.reshape(3, -1), np.array(alone)[:, None], rtol=1e-5)
    assert found.standard_error == pytest.approx(np.std(alone, ddof=1) / 3**0.5, rel=0.15)


def test_kronecker_of_experts_is_that_of_each(some_sequences, statistics_of, part_of):
    generator = torch.Generator().manual_seed(3)
    error = torch.randn(2, 5, 6, generator=generator)
    statistics = statistics_of((2, 5, 6), some_sequences, reached=[0, 1])
    estimator = get_estimator("kronecker_fisher")
    found = estimator.judge(part_of(error, error, statistics)).loss
    expected = 0.0
    for expert in range(2):
        pairs = [(x.chunk(2)[expert], g.chunk(2)[expert]) for x, g in some_sequences]
        x, g = (torch.cat(tensors).double() for tensors in zip(*pairs, strict=True))
        # A is a mean over the expert's own tokens; G is a sum, over all tokens the mean of one.
        whole = torch.kron(g.T @ g / TOKENS, x.T @ x / len(x))
        vec = error[expert].flatten().double()
        expected += (0.5 * vec @ whole @ vec).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_kronecker_of_a_diagonal_g_leaves_the_outputs_apart(some_sequences, statistics_of, part_of):
    generator = torch.Generator().manual_seed(3)
    error = torch.randn(5, 6, generator=generator)
    sequences = [(x, torch.eye(5)[torch.arange(24) % 5] * (1 + x[:, :1].abs()))
                 for x, _ in some_sequences]  # fmt: skip
    statistics = statistics_of((5, 6), sequences)
    estimator = get_estimator("kronecker_fisher")
    expected = estimator.judge(part_of(error, error, statistics)).loss
    outputs = statistics["outputs"]
    outputs["outputs"] = outputs["outputs"].diagonal().clone()
    assert estimator.judge(part_of(error, error, statistics)).loss == pytest.approx(expected)
