"""Half of the products give the whole form, to float32 rounding."""

import pytest
import torch

from bitplan.sensitivity.estimators.quadratic_form import BLOCK, quadratic_form

SHAPES = [(1, 1), (7, 5), (64, BLOCK), (5, BLOCK + 1), (40, 2 * BLOCK + 3), (3, 16, 3 * BLOCK - 1)]


def drawn(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """An error, and a covariance of inputs of which some are a hundred times as large."""
    generator = torch.Generator().manual_seed(5)
    *experts, _, columns = shape
    inputs = torch.randn(*experts, 2 * columns, columns, generator=generator)
    inputs[..., ::7] *= 100
    return torch.randn(shape, generator=generator), inputs.mT @ inputs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_form_in_float64(shape):
    error, covariance = drawn(shape)
    before = error.clone(), covariance.clone()
    found = quadratic_form(error, covariance)
    expected = ((error.double() @ covariance.double()) * error).sum(-1)
    plain = (error @ covariance).mul_(error).sum(-1, dtype=torch.float64)
    assert found.dtype == torch.float64
    assert torch.equal(error, before[0])
    assert torch.equal(covariance, before[1])
    worst = ((plain - expected).abs() / expected).max().item()
    assert ((found - expected).abs() / expected).max().item() <= max(2 * worst, 2e-7)


def test_it_reads_the_upper_half_alone():
    """As it is half of the work only then."""
    error, covariance = drawn((4, 2 * BLOCK))
    expected = quadratic_form(error, covariance)
    covariance[BLOCK:, :BLOCK] = torch.nan
    assert torch.equal(quadratic_form(error, covariance), expected)
