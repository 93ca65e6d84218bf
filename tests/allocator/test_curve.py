"""Every breakpoint of the curve is a plan that nothing of its size can beat."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import Curve, Problem, Status, frontier, smallest_bytes, solve
from bitplan.schema import Budget


def test_known_answer(tables) -> None:
    table = tables.of(
        [
            {"int2g64": (10, 5.0), "int3g64": (15, 4.5), "int4g64": (20, 1.0)},
            {"int2g64": (10, 9.0), "int4g64": (20, 2.0), "int8": (40, 2.5)},
        ]
    )
    curve = frontier(table, points=None)
    assert isinstance(curve, Curve)
    # int3 lies above its row's hull, and int8 loses more than int4.
    assert curve.bytes.tolist() == [1020, 1030, 1040]
    assert curve.loss.tolist() == [14.0, 7.0, 3.0]
    assert curve.price.tolist() == [0.7, 0.4, 0.0]
    plan = curve.plan(1)
    assert {name: str(scheme) for name, scheme in plan.schemes.items()} == {
        "a0": "int2g64",
        "a1": "int4g64",
    }
    assert (plan.bytes, plan.budget_bytes, plan.gap) == (1030, 1030, 0.0)
    assert plan.status == Status.OPTIMAL.value
    assert curve.plan(-1).schemes == curve.plan(2).schemes
    with pytest.raises(IndexError):
        curve.plan(3)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_no_plan_of_as_few_bytes_loses_less(tables, every_choice, data) -> None:
    table = data.draw(tables.any())
    curve = frontier(table, points=None)
    problem = Problem.of(table, 0)
    choices = every_choice(problem)
    rows = np.arange(choices.shape[1])
    size = table.rest_bytes + problem.bytes[rows, choices].sum(axis=1)
    loss = problem.loss[rows, choices].sum(axis=1)
    assert curve.bytes[0] == smallest_bytes(table) == size.min()
    assert curve.loss[-1] == pytest.approx(loss.min(), rel=1e-9, abs=0)
    assert (np.diff(curve.bytes) > 0).all()
    assert (np.diff(curve.price) <= 0).all()
    for point in range(len(curve)):
        plan = curve.plan(point)
        assert plan.bytes == curve.bytes[point]
        assert plan.predicted_kl == pytest.approx(curve.loss[point], rel=1e-9, abs=0)
        best = loss[size <= plan.bytes].min()
        assert plan.predicted_kl == pytest.approx(best, rel=1e-9, abs=0)
    # Between two points the line is a lower bound.
    for one_size, one_loss in zip(size, loss, strict=True):
        line = np.interp(one_size, curve.bytes, curve.loss)
        assert one_loss >= line * (1 - 1e-9)


def test_pins_and_fused_layers(tables) -> None:
    costs = {"int2g64": (10, 5.0), "int4g64": (20, 1.0), "int8": (40, 0.0)}
    table = tables.of([costs, costs, costs], fuse=["qk", "qk", None])
    curve = frontier(table, points=None, fuse=True, pins={"a2": ["int2g64", "int8"]})
    for point in range(len(curve)):
        schemes = curve.plan(point).schemes
        assert schemes["a0"] == schemes["a1"]
        assert str(schemes["a2"]) != "int4g64"
    assert curve.bytes.tolist() == [1030, 1050, 1080, 1120]


def test_a_table_without_a_choice_has_one_point(tables) -> None:
    curve = frontier(tables.of([{"int8": (10, 1.0)}]), points=None)
    assert (curve.bytes.tolist(), curve.loss.tolist()) == ([1010], [1.0])
    assert curve.price.tolist() == [0.0]


def test_thousands_of_points_agree_with_solving_each(tables) -> None:
    table = tables.synthetic(300)
    curve = frontier(table, points=None)
    assert len(curve) > 1500
    for point in (0, 7, 800, len(curve) - 1):
        plan = solve(table, Budget(bytes=int(curve.bytes[point])), solver="cp_sat")
        assert plan.predicted_kl == pytest.approx(curve.loss[point], rel=1e-9)
        assert math.isclose(curve.plan(point).predicted_kl, plan.predicted_kl, rel_tol=1e-9)
