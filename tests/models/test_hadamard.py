"""Hadamard matrices and rotations made of them."""

import math

import pytest
import torch

from bitplan.errors import ModelError
from bitplan.models.hadamard import orders_of, random_rotation


@pytest.mark.parametrize("size", [1, 2, 12, 20, 28, 36, 44, 60, 64, 80, 96, 128, 576, 896, 960])
def test_a_rotation_is_orthogonal_with_entries_of_one_size(size):
    matrix = random_rotation(size, seed=1).turn(torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(
        matrix.abs(), torch.full_like(matrix, 1 / math.sqrt(size)), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("size", [64, 576])
def test_one_large_channel_is_spread_over_all(size):
    rows = torch.zeros(3, size)
    rows[:, 5] = 100.0
    turned = random_rotation(size, seed=0).turn(rows)
    assert turned.abs().max() < 100 / math.sqrt(size) + 1e-3


def test_channels_are_turned_block_by_block():
    rotation = random_rotation(12, seed=0)
    rows = torch.randn(5, 36, generator=torch.Generator().manual_seed(0))
    apart = torch.cat([rotation.turn(block) for block in rows.split(12, dim=1)], dim=1)
    torch.testing.assert_close(rotation.turn(rows), apart)


def test_a_seed_tells_a_rotation():
    one, same, other = (random_rotation(64, seed=seed).signs for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("size", [6, 27, 50, 172])
def test_a_size_without_a_known_matrix_is_refused(size):
    assert orders_of(size) is None
    with pytest.raises(ModelError, match=f"No Hadamard matrix of {size} channels"):
        random_rotation(size, seed=0)
