"""Tokens of a sequence weigh more alike than the loss says, and as much together."""

import pytest
import torch

from bitplan.schema import Kind, Layer
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.moments.covariance import tempered

LINEAR = Layer(name="q_proj", kind=Kind.LINEAR, shape=(5, 6))


def test_the_square_roots_with_the_same_sum():
    found = tempered(torch.tensor([[1.0], [16.0], [0.0], [1.0]]))
    assert found.flatten().tolist() == pytest.approx([3.0, 12.0, 0.0, 3.0])


def test_without_any_gradient_nothing_is_weighed():
    assert tempered(torch.zeros(3, 1)).tolist() == [[0.0]] * 3


def test_each_sequence_of_a_covariance_is_tempered_by_itself():
    moment = MOMENTS["covariance"]
    sums, expected = moment.zeros(LINEAR, 2), torch.zeros(6, 6)
    drawn = torch.Generator().manual_seed(0)
    for sequence, size in enumerate((1.0, 10.0)):
        inputs, slopes = torch.randn(7, 6, generator=drawn), torch.randn(7, 5, generator=drawn)
        slopes *= size * torch.arange(7).unsqueeze(1)
        moment.add(sums, inputs, slopes, sequence=sequence, generator=drawn)
        roots = slopes.square().mean(1).sqrt()
        weights = roots * slopes.square().mean(1).sum() / roots.sum()
        expected += inputs.T @ torch.diag(weights) @ inputs
        assert sums["diagonals"][sequence].sum() == pytest.approx(
            (weights * inputs.square().sum(1)).sum().item()
        )
    torch.testing.assert_close(sums["covariance"], expected, rtol=1e-5, atol=1e-3)
