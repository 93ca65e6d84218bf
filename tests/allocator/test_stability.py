"""Shares of samples that keep a scheme: known answers, and what must not change them."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import solve, stability
from bitplan.errors import InputError
from bitplan.schema import Budget


@settings(deadline=None, max_examples=60)
@given(data=st.data(), share=st.floats(0, 1))
def test_a_table_without_noise_keeps_its_best_plan(tables, data, share) -> None:
    table = data.draw(tables.any())
    plan = solve(table, tables.budget(table, share), solver="cp_sat")
    found = stability(table, plan, samples=3)
    assert set(found.kept.values()) == {1.0}
    assert all(one.others == {} for one in found.layers)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), error=st.floats(0.01, 2.0))
def test_shares_add_up(tables, data, error) -> None:
    table = data.draw(tables.any(error=error))
    plan = solve(table, tables.budget(table, 0.5))
    found = stability(table, plan, samples=20, seed=3)
    assert found == stability(table, plan, samples=20, seed=3)
    assert [one.layer for one in found.layers] == [row.layer.name for row in table.rows]
    for one, row in zip(found.layers, table.rows, strict=True):
        assert math.isclose(one.kept + sum(one.others.values()), 1.0, rel_tol=1e-9)
        assert set(one.others) < {str(cost.scheme) for cost in row.costs}
        assert list(one.others.values()) == sorted(one.others.values(), reverse=True)


def test_a_coin_that_noise_tosses(tables) -> None:
    # Ten bytes for one of two layers, and each is as good as the other: half of the samples swap.
    row = {"int2g64": (10, 5.0), "int4g64": (20, 1.0)}
    table = tables.of([row, row], error=0.1)
    plan = solve(table, Budget(bytes=1030))
    kept = stability(table, plan, samples=400).kept
    assert kept["a0"] == kept["a1"]
    # Three standard errors of a fair coin.
    assert kept["a0"] == pytest.approx(0.5, abs=3 * 0.5 / 20)


def test_what_one_layer_gains_far_more_from_is_kept(tables) -> None:
    rows = [{"int2g64": (10, x), "int4g64": (20, x / 4)} for x in (5.0, 0.5)]
    plan = solve(tables.of(rows), Budget(bytes=1030))
    known, unsure = (
        stability(tables.of(rows, error=error), plan, samples=200).kept["a0"]
        for error in (0.1, 1.0)
    )
    assert known == 1.0
    # It is lost where its own draw falls below a tenth of the other's: z0 < 0.1 z1 - 0.9, which
    # the clipping at zero changes little.
    expected = 0.5 * (1 + math.erf(0.9 / math.sqrt(1.01) / math.sqrt(2)))
    assert unsure == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / 200))


def test_the_order_of_rows_and_the_scale_of_losses_change_nothing(tables) -> None:
    table = tables.synthetic(20, error=0.2)
    plan = solve(table, Budget(bytes=120_000))
    found = stability(table, plan, samples=30)
    assert 0.5 < sum(found.kept.values()) / 20 < 1
    shuffled = random.Random(0).sample(table.rows, len(table.rows))
    permuted = table.model_copy(update={"rows": tuple(shuffled)})
    assert stability(permuted, plan, samples=30).kept == found.kept
    assert stability(table, plan, samples=30, seed=1).kept != found.kept


def test_fused_layers_move_and_stay_together(tables) -> None:
    row = {"int2g64": (10, 5.0), "int4g64": (20, 1.0)}
    table = tables.of([row] * 4, error=0.2, fuse=["a", "a", "b", "b"])
    plan = solve(table, Budget(bytes=1060), fuse=True)
    found = stability(table, plan, samples=100, fuse=True)
    assert found.kept["a0"] == found.kept["a1"]
    assert 0.2 < found.kept["a0"] < 0.8
    pinned = stability(
        table, plan, samples=100, fuse=True, pins={n: str(s) for n, s in plan.schemes.items()}
    )
    assert set(pinned.kept.values()) == {1.0}


def test_no_samples_are_refused(tables) -> None:
    table = tables.of([{"int8": (10, 1.0)}])
    plan = solve(table, 1.0)
    for wrong in ({"samples": 0}, {"seed": -1}):
        with pytest.raises(InputError, match="at least 1 sample"):
            stability(table, plan, **wrong)
