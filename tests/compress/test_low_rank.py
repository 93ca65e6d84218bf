"""Low-rank terms: the optimum before rounding, near it after, and never for nothing."""

import pytest
import torch
from torch import Tensor

from bitplan.compress import QUANTIZERS
from bitplan.compress.curvature import Curvature
from bitplan.compress.low_rank import add_low_rank, down_factor, up_factor
from bitplan.schema import Scheme
from rendered import correlated, expected_loss, one, random

SHAPES = [(48, 120), (120, 48), (70, 70)]


def square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.double())
    return vectors * values.clamp_min(0).sqrt() @ vectors.t()


def least(error: Tensor, matrix: Tensor, rank: int) -> float:
    """What the best term of a rank leaves: the singular values that are not in it."""
    left = torch.linalg.svdvals(error.double() @ square_root(matrix))[rank:]
    return left.square().sum().item()


def loss(error: Tensor, matrix: Tensor) -> float:
    return ((error.double() @ matrix.double()) * error.double()).sum().item()


@pytest.mark.parametrize("rank", [1, 7, 40])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_before_rounding_it_is_the_optimum(shape, rank):
    weight = random(*shape)
    matrix = Curvature(covariance=correlated(shape[1])).matrix
    below = one(weight, "int3g32", "rtn")
    down = down_factor(weight, below, matrix, rank)
    up = up_factor(weight, below, matrix, down)
    error = weight - below.decode()
    assert loss(error - up @ down, matrix) == pytest.approx(least(error, matrix, rank), rel=1e-3)
    # The columns of U are of one size: each row has one scale.
    assert up.norm(dim=0).tolist() == pytest.approx([1.0] * rank, rel=1e-2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rounded_it_is_near_the_optimum(shape):
    weight, covariance = random(*shape), correlated(shape[1])
    matrix = Curvature(covariance=covariance).matrix
    error = weight - one(weight, "int3g32", "gptq", covariance).decode()
    packed = one(weight, "int3g32+r8", "gptq", covariance)
    found = loss(weight - packed.decode(), matrix)
    assert least(error, matrix, 8) < found < 1.01 * least(error, matrix, 8)
    assert found < 0.9 * loss(error, matrix)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("below", ["int3g32", "int4g32+2:4", "nf3g32+2%int8", "int3+50%+2%bf16"])
def test_it_lowers_the_loss_of_all_that_it_is_added_to(below, quantizer):
    weight, covariance = random(48, 120), correlated(120)
    losses = [
        expected_loss(weight, one(weight, name, quantizer, covariance), covariance)
        for name in (below, f"{below}+r4", f"{below}+r16")
    ]
    assert losses[0] > losses[1] > losses[2]
    base = one(weight, below, quantizer, covariance).tensors
    changed = one(weight, f"{below}+r4", quantizer, covariance)
    prefix = "" if changed.scheme.salient else "base."
    assert all(torch.equal(changed.tensors[f"{prefix}{key}"], base[key]) for key in base)


def test_without_statistics_it_lowers_the_squared_error():
    weight = random(48, 120)
    errors = [weight - one(weight, name, "rtn").decode() for name in ("int2", "int2+r8")]
    left = least(errors[0], torch.eye(120), 8)
    assert left < errors[1].square().sum() < 1.01 * left


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_of_an_error_of_zero_it_is_zero(shape):
    below = one(random(*shape), "int4g32", "rtn")
    packed = add_low_rank(below.decode(), Scheme.parse("int4g32+r4"), below, None)
    assert torch.equal(packed.decode(), below.decode())
