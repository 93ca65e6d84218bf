"""Tokens of a sequence weigh more alike than the loss says, and the trace stays."""

import pytest
import torch

from bitplan.schema import Kind, Layer
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.moments.covariance import tempered

LINEAR = Layer(name="q_proj", kind=Kind.LINEAR, shape=(5, 6))


def test_the_square_roots_with_the_same_trace():
    inputs = torch.tensor([[1.0, 0.0], [1.0, 1.0], [9.0, 9.0], [3.0, 1.0]])
    weights = torch.tensor([1.0, 16.0, 0.0, 1.0])
    found = tempered(weights, inputs)
    assert (found / found[0]).tolist() == pytest.approx([1.0, 4.0, 0.0, 1.0])
    sizes = inputs.square().sum(1)
    assert (found @ sizes).item() == pytest.approx((weights @ sizes).item())


@pytest.mark.parametrize("inputs", [torch.ones(3, 2), torch.zeros(3, 2)])
def test_without_a_gradient_or_an_input_nothing_is_weighed(inputs):
    found = tempered(torch.zeros(3) if inputs.any() else torch.ones(3), inputs)
    assert (found.unsqueeze(1) * inputs).tolist() == [[0.0, 0.0]] * 3


def test_each_sequence_of_a_covariance_is_tempered_by_itself():
    moment = MOMENTS["covariance"]
    sums, expected = moment.zeros(LINEAR, 2), torch.zeros(6, 6)
    drawn = torch.Generator().manual_seed(0)
    for sequence, size in enumerate((1.0, 10.0)):
        inputs, slopes = torch.randn(7, 6, generator=drawn), torch.randn(7, 5, generator=drawn)
        slopes *= size * torch.arange(7).unsqueeze(1)
        moment.add(sums, inputs, slopes, sequence=sequence, generator=drawn)
        weights = tempered(slopes.square().mean(1), inputs)
        expected += inputs.T @ torch.diag(weights) @ inputs
        trace = (slopes.square().mean(1) * inputs.square().sum(1)).sum().item()
        assert sums["diagonals"][sequence].sum().item() == pytest.approx(trace)
    torch.testing.assert_close(sums["covariance"], expected, rtol=1e-5, atol=1e-3)
