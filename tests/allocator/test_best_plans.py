"""The K best and the best that differ, against all plans there are."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import AverageBits, Constraints, Problem, best_plans, solve
from bitplan.allocator.best_plans import GAP
from bitplan.errors import InfeasibleError, InputError
from bitplan.schema import Budget, CostTable, Plan


def fitting(
    every_choice, table: CostTable, budget: Budget
) -> tuple[Problem, np.ndarray, np.ndarray]:
    """All choices within a budget and their losses, the best first."""
    problem = Problem.of(table, budget.total_bytes)
    choices = every_choice(problem)
    rows = np.arange(choices.shape[1])
    choices = choices[problem.bytes[rows, choices].sum(axis=1) <= problem.budget_bytes]
    loss = np.array([problem.loss_of(choice) for choice in choices])
    order = np.argsort(loss, kind="stable")
    return problem, choices[order], loss[order]


def differ(one: Plan, other: Plan, of: str = "parameters") -> float:
    """The share in which two plans differ."""
    weight = [c.layer.parameters if of == "parameters" else 1 for c in one.choices]
    pairs = zip(one.choices, other.choices, weight, strict=True)
    return sum(w for a, b, w in pairs if a.scheme != b.scheme) / sum(weight)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), share=st.floats(0, 1), count=st.integers(1, 8))
def test_the_k_best(tables, every_choice, data, share, count) -> None:
    table = data.draw(tables.any(max_rows=4))
    budget = tables.budget(table, share)
    _, _, loss = fitting(every_choice, table, budget)
    plans = best_plans(table, budget, count)
    assert len(plans) == min(count, len(loss))
    for plan, expected in zip(plans, loss, strict=False):
        # Losses far below the others are only known to the rounding of these.
        assert plan.predicted_kl == pytest.approx(expected, rel=1e-9, abs=1e-12 * loss[-1])
        assert plan.bytes <= budget.total_bytes
        assert plan.lower_bound <= loss[0] * (1 + 1e-12)
    assert len({tuple(map(str, plan.schemes.values())) for plan in plans}) == len(plans)
    assert all(plan.status.startswith("Proven") for plan in plans[1:])


@settings(deadline=None, max_examples=30)
@given(
    data=st.data(),
    share=st.floats(0, 1),
    bits=st.floats(0.3, 7.0),
    most_schemes=st.sampled_from([None, 1, 2]),
    differ_by=st.sampled_from([0.0, 0.5]),
)
def test_the_best_under_limits(
    tables, every_choice, data, share, bits, most_schemes, differ_by
) -> None:
    table = data.draw(tables.any(max_rows=4))
    budget = tables.budget(table, share)
    limits = (AverageBits(most=round(bits, 3)),)
    constraints = Constraints(limits=limits, most_schemes=most_schemes)
    problem = Problem.of(table, budget.total_bytes, constraints=constraints)
    loss = sorted(problem.loss_of(each) for each in every_choice(problem) if problem.fits(each))
    if not loss:
        with pytest.raises(InputError):
            best_plans(table, budget, 3, constraints=constraints)
        return
    plans = best_plans(table, budget, 3, differ_by=differ_by, constraints=constraints)
    if not differ_by:
        assert len(plans) == min(3, len(loss))
    for plan, expected in zip(plans, loss, strict=False):
        choice = problem.choice_of(plan.schemes)
        assert choice is not None
        assert problem.fits(choice)
        if differ_by:
            assert plan.predicted_kl >= expected * (1 - 1e-9)
        else:
            least = 1e-12 * loss[-1]
            assert plan.predicted_kl == pytest.approx(expected, rel=1e-9, abs=least)
    for one, other in itertools.combinations(plans, 2):
        assert differ(one, other) >= differ_by


@settings(deadline=None, max_examples=50)
@given(
    data=st.data(),
    share=st.floats(0, 1),
    differ_by=st.sampled_from([0.2, 0.34, 0.5, 1.0]),
    of=st.sampled_from(["parameters", "layers"]),
    tolerance=st.sampled_from([None, 0.0, 0.5]),
)
def test_the_best_that_differ(tables, every_choice, data, share, differ_by, of, tolerance) -> None:
    drawn = data.draw(tables.any(max_rows=4))
    weights = [7, 1, 64, 13][: len(drawn.rows)]
    rows = [{str(c.scheme): (c.bytes, c.loss) for c in row.costs} for row in drawn.rows]
    table = tables.of(rows, weights=weights)
    budget = tables.budget(table, share)
    problem, choices, loss = fitting(every_choice, table, budget)
    plans = best_plans(table, budget, 4, differ_by=differ_by, of=of, tolerance=tolerance)
    most = math.inf if tolerance is None else loss[0] * (1 + tolerance)
    slack = GAP * loss[0] + 1e-9 * loss[-1]
    weight = problem.parameters if of == "parameters" else np.ones(len(rows))
    allowed = loss <= most * (1 + 1e-12)
    for index, plan in enumerate(plans):
        assert plan.bytes <= budget.total_bytes
        assert all(differ(plan, other, of) >= differ_by - 1e-9 for other in plans[:index])
        assert loss[allowed].min() - slack <= plan.predicted_kl
        assert plan.predicted_kl <= loss[allowed].min() + slack
        chosen = np.array([problem.schemes.index(plan.schemes[n]) for (n,) in problem.layers])
        share_apart = ((choices != chosen) * weight).sum(axis=1) / weight.sum()
        allowed &= share_apart >= differ_by - 1e-9
        if not allowed.any():
            break
    assert len(plans) == 4 or not allowed.any()


def test_known_answer(tables) -> None:
    row = {"int2g64": (10, 4.0), "int4g64": (20, 1.0), "int8": (40, 0.0)}
    table = tables.of([row, {**row, "int4g64": (20, 2.0)}, row])
    plans = best_plans(table, Budget(bytes=1060), 3)
    assert [plan.predicted_kl for plan in plans] == [4.0, 6.0, 7.0]
    assert plans[0].choices == solve(table, Budget(bytes=1060)).choices
    assert plans[1].status == (
        "Proven: no plan but the one before it predicts a lower KL within this budget."
    )
    assert plans[1].gap == pytest.approx(1 / 3)
    assert plans[1].solver == "best_plans"
    apart = best_plans(table, Budget(bytes=1060), 9, differ_by=1.0)
    assert [plan.predicted_kl for plan in apart] == [4.0, 8.0]
    near = best_plans(table, Budget(bytes=1060), 9, tolerance=0.5)
    assert [plan.predicted_kl for plan in near[:2]] == [4.0, 6.0]
    assert all(plan.predicted_kl <= 6.0 for plan in near)


def test_many_layers(tables) -> None:
    table = tables.synthetic(60)
    budget = tables.budget(table, 0.2)
    plans = best_plans(table, budget, 6)
    losses = [plan.predicted_kl for plan in plans]
    assert losses == sorted(losses)
    assert losses[-1] < losses[0] * 1.01
    apart = best_plans(table, budget, 4, differ_by=0.25)
    assert len(apart) == 4
    for one, other in itertools.combinations(apart, 2):
        assert differ(one, other) >= 0.25
    assert apart[-1].predicted_kl < losses[0] * 1.2


def test_the_order_of_rows_changes_nothing_and_the_same_comes_again(tables) -> None:
    table = tables.synthetic(25)
    budget = tables.budget(table, 0.3)
    shuffled = random.Random(0).sample(table.rows, len(table.rows))
    permuted = table.model_copy(update={"rows": tuple(shuffled)})
    for kind in ({}, {"differ_by": 0.3}, {"differ_by": 0.3, "of": "layers"}):
        plans = best_plans(table, budget, 3, **kind)
        assert plans == best_plans(table, budget, 3, **kind)
        assert [p.schemes for p in plans] == [
            p.schemes for p in best_plans(permuted, budget, 3, **kind)
        ]


def test_pins_and_fused_layers(tables) -> None:
    row = {"int2g64": (10, 4.0), "int4g64": (20, 1.0), "int8": (40, 0.0)}
    table = tables.of([row, row, row], fuse=["qk", "qk", None])
    pins = {"a2": ["int2g64", "int4g64"]}
    plans = best_plans(table, 1.0, 20, fuse=True, pins=pins)
    assert len(plans) == 6
    assert all(plan.schemes["a0"] == plan.schemes["a1"] for plan in plans)


def test_what_makes_no_sense_is_refused(tables) -> None:
    table = tables.synthetic(3)
    for wrong, message in (
        ({"count": 0}, "at least 1"),
        ({"differ_by": 1.5}, "a share from 0 to 1"),
        ({"of": "bytes"}, "Choose parameters or layers"),
        ({"tolerance": -0.1}, "from 0 up"),
    ):
        with pytest.raises(InputError, match=message):
            best_plans(table, 1.0, **{"count": 2, **wrong})
    with pytest.raises(InfeasibleError):
        best_plans(table, Budget(bytes=1001), 2)
