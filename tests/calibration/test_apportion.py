"""Whole sequences in proportion: nothing lost, nobody off by one, the same every time."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitplan.calibration.apportion import apportion, interleave

WEIGHTS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [
        (10, [1], [10]),
        (10, [0.7, 0.3], [7, 3]),
        (32, [0.7, 0.3], [22, 10]),
        (8, [1, 1, 1], [3, 3, 2]),
        (2, [1, 1, 1], [1, 1, 0]),
        (0, [1, 2], [0, 0]),
        (5, [1e308, 1e308], [3, 2]),
        (5, [5e-324, 5e-324], [3, 2]),
    ],
)
def test_known_shares(total, weights, shares):
    assert apportion(total, weights) == shares


@given(total=st.integers(0, 600), weights=WEIGHTS)
def test_shares_add_up_and_are_within_one_of_the_exact_ones(total, weights):
    shares = apportion(total, weights)
    assert sum(shares) == total
    whole = math.fsum(weights)
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * weight / whole) < 1 + 1e-6
    if len(weights) > 1:
        assert sorted(apportion(total, weights[::-1])) == pytest.approx(sorted(shares), abs=1)


@given(counts=st.lists(st.integers(0, 30), max_size=5))
def test_every_beginning_holds_the_parts_in_proportion(counts):
    order = list(interleave(counts))
    assert sorted(order) == [(part, i) for part, n in enumerate(counts) for i in range(n)]
    seen: Counter[int] = Counter()
    for taken, (part, index) in enumerate(order, 1):
        assert index == seen[part]  # the order within a part is kept
        seen[part] += 1
        for other, count in enumerate(counts):
            assert abs(seen[other] - taken * count / len(order)) <= max(1, len(counts) - 1)
