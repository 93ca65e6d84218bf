"""Nested plans: they fit, they only promote, and each is the best between its neighbours."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import SOLVERS, Problem, frontier
from bitplan.schema import CostTable, Plan


def check(table: CostTable, plans: list[Plan], free: list[Plan]) -> None:
    """What holds for every nested frontier."""
    assert [plan.budget_bytes for plan in plans] == [plan.budget_bytes for plan in free]
    for plan, best in zip(plans, free, strict=True):
        assert plan.bytes <= plan.budget_bytes
        assert plan.predicted_kl >= best.predicted_kl * (1 - 1e-12)
        assert plan.lower_bound <= best.predicted_kl * (1 + 1e-12)
        assert plan.status.startswith("Nested: ")
    for small, large in itertools.pairwise(plans):
        for before, after in zip(small.choices, large.choices, strict=True):
            assert after.bytes >= before.bytes
            assert after.loss <= before.loss


@settings(deadline=None, max_examples=80)
@given(data=st.data(), points=st.integers(2, 6))
def test_each_plan_is_the_best_between_its_neighbours(tables, every_choice, data, points) -> None:
    table = data.draw(tables.any(max_rows=4))
    plans = frontier(table, points=points, nested=True)
    check(table, plans, frontier(table, points=points))
    problem = Problem.of(table, 0)
    choices = every_choice(problem)
    rows = np.arange(choices.shape[1])
    size, loss = problem.bytes[rows, choices], problem.loss[rows, choices]
    at = [np.array([choice.bytes for choice in plan.choices]) for plan in plans]
    for index, plan in enumerate(plans):
        fits = table.rest_bytes + size.sum(axis=1) <= plan.budget_bytes
        if index:
            fits &= (size >= at[index - 1]).all(axis=1)
        if index + 1 < len(plans):
            fits &= (size <= at[index + 1]).all(axis=1)
        best = loss.sum(axis=1)[fits].min()
        assert plan.predicted_kl == pytest.approx(best, rel=1e-9, abs=0)


def joint_optimum(problem: Problem, choices: np.ndarray, plans: list[Plan], free: list[Plan]):
    """The least sum of loss relative to the free plans', over all nested chains."""
    rows = np.arange(choices.shape[1])
    size, loss = problem.bytes[rows, choices], problem.loss[rows, choices].sum(axis=1)
    grows = (size[:, None, :] <= size[None, :, :]).all(axis=-1)  # [smaller, larger]
    total = np.zeros(len(choices))
    for plan, best in zip(plans, free, strict=True):
        fits = problem.rest_bytes + size.sum(axis=1) <= plan.budget_bytes
        here = np.where(fits, loss / best.predicted_kl, np.inf)
        total = here + np.where(grows, total[:, None], np.inf).min(axis=0)
    return total.min()


def test_chains_are_close_to_the_best_chain_there_is(tables, every_choice) -> None:
    ratios = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        size = np.sort(rng.integers(1, 40, (4, 4)), axis=1) * rng.choice([1, 1, 5], (4, 1))
        loss = -np.sort(-rng.lognormal(0, 2, (4, 4)), axis=1)
        names = ("int2g64", "int3g64", "int4g64", "int8")
        rows = [
            {n: (int(s), float(x)) for n, s, x in zip(names, *each, strict=True)}
            for each in zip(size, loss, strict=True)
        ]
        table = tables.of(rows)
        plans, free = (frontier(table, points=5, nested=nested) for nested in (True, False))
        ours = sum(p.predicted_kl / f.predicted_kl for p, f in zip(plans, free, strict=True))
        problem = Problem.of(table, 0)
        ratios.append(ours / joint_optimum(problem, every_choice(problem), plans, free))
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(np.array(ratios) < 1 + 1e-9) >= 0.9
    assert max(ratios) < 1.02


@pytest.mark.parametrize("solver", [*SOLVERS, "auto"])
def test_nesting_costs_little_where_layers_are_many(tables, solver) -> None:
    table = tables.synthetic(60)
    free = frontier(table, points=8)
    plans = frontier(table, points=8, nested=True, solver=solver)
    check(table, plans, free)
    for plan, best in zip(plans, free, strict=True):
        assert plan.predicted_kl <= best.predicted_kl * 1.01
    assert plans[-1].schemes == free[-1].schemes


def test_what_nesting_costs_is_said(tables) -> None:
    # At 20 bytes a1 alone gains most; at 35 both are only worth it with a0 at 4 bits and a1 at 2.
    table = tables.of(
        [
            {"int2g64": (5, 10.0), "int4g64": (30, 1.0)},
            {"int2g64": (5, 4.0), "int4g64": (10, 3.9)},
        ]
    )
    plans = frontier(table, points=7, nested=True)
    assert [plan.budget_bytes - 1000 for plan in plans] == [10, 15, 20, 25, 30, 35, 40]
    check(table, plans, frontier(table, points=7))
    # One chain promotes a1 early and cannot use 35 bytes; the better one keeps it back.
    assert [plan.predicted_kl for plan in plans] == [14.0, 14.0, 14.0, 14.0, 14.0, 5.0, 4.9]
    assert "costs nothing" in plans[5].status
    assert "costs 0.72%: 14 in place of 13.9 nats per token" in plans[1].status
    assert plans[1].gap == pytest.approx(0.1 / 14)


def test_a_chain_that_time_cuts_short_is_nested_still(tables) -> None:
    table = tables.synthetic(60)
    plans = frontier(table, points=8, nested=True, time_limit_s=1e-6)
    check(table, plans, frontier(table, points=8))
