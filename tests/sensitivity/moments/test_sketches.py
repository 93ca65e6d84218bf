"""Sketches: right on average, alike in every process, and mixed where several stand for one."""

import torch

from bitplan.sensitivity.moments.sketches import add_sketches, mixed

MANY = 20_000


def rows_of(seed: int, count: int = 7) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def sketches_of(*calls: torch.Tensor, many: int = MANY, seed: int = 0) -> torch.Tensor:
    sketches, generator = torch.zeros(many, 5), torch.Generator().manual_seed(seed)
    for rows in calls:
        add_sketches(sketches, rows, generator)
    return sketches


def told(sketches: torch.Tensor) -> torch.Tensor:
    return sketches.T @ sketches / len(sketches)


def test_their_covariance_is_that_of_the_rows():
    rows = rows_of(1)
    found = told(sketches_of(rows))
    assert torch.allclose(found, rows.T @ rows, atol=0.03 * (rows.T @ rows).diagonal().max())


def test_calls_add_up_though_they_see_the_same():
    rows = rows_of(2)
    found = told(sketches_of(rows, rows, -rows))
    expected = 3 * rows.T @ rows  # were the signs the same, it would be one call's
    assert torch.allclose(found, expected, atol=0.03 * expected.diagonal().max())


def test_the_same_calls_give_the_same_bytes_and_others_do_not():
    rows = rows_of(3)
    one = sketches_of(rows, many=4, seed=5)
    assert torch.equal(one, sketches_of(rows, many=4, seed=5))
    assert not torch.equal(one.abs(), sketches_of(rows, many=4, seed=6).abs())


def test_a_mix_tells_the_mean_of_what_its_parts_tell():
    parts = [rows_of(4), rows_of(5), rows_of(4)]
    # The same signs in each: alone the mix keeps the parts from adding up.
    sketches = torch.stack([sketches_of(rows) for rows in parts])
    expected = sum(rows.T @ rows for rows in parts) / 3
    found = mixed(sketches)
    assert torch.allclose(told(found), expected, atol=0.03 * expected.diagonal().max())
    assert torch.equal(found, mixed(sketches))
