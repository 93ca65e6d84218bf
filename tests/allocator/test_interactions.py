"""Interactions between layers as data of a cost table: what they mean to plans, and bad ones."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import (
    AverageBits,
    Constraints,
    Problem,
    best_plans,
    choose_solver,
    explain,
    frontier,
    plan_of,
    smallest_bytes,
    solve,
    stability,
    uniform,
    with_interactions,
)
from bitplan.errors import InputError, TableError
from bitplan.schema import Budget, CostTable, Plan


@st.composite
def interacting(draw: st.DrawFn, tables, *, fuse: bool = False) -> CostTable:
    """Small tables of every kind with some pairs that lose more together, and some that lose less.

    No pair gains more than half of what both lose, so that layers that share a scheme lose.
    """
    table = draw(tables.any(max_rows=4))
    if fuse:
        rows = [
            row.model_copy(update={"layer": row.layer.model_copy(update={"fuse": "f"})})
            for row in table.rows[:2]
        ]
        table = table.model_copy(update={"rows": (*rows, *table.rows[2:])})
    ends = [
        (row.layer.name, str(cost.scheme), cost.loss) for row in table.rows for cost in row.costs
    ]
    every = [(a, b) for a in ends for b in ends if a[0] < b[0]]
    if not every:
        return table
    pairs = draw(st.lists(st.sampled_from(every), max_size=8, unique=True))
    return with_interactions(
        table,
        {(a[:2], b[:2]): draw(st.floats(-0.5, 2.0)) * (a[2] + b[2]) for a, b in pairs},
    )


def loss_of(table: CostTable, plan: Plan) -> float:
    """By the definition, which the schema states."""
    names = {name: str(scheme) for name, scheme in plan.schemes.items()}
    losses = [
        cost.loss
        for row in table.rows
        for cost in row.costs
        if names[row.layer.name] == str(cost.scheme)
    ]
    pairs = [
        one.loss
        for one in table.interactions
        if names[one.layer] == str(one.scheme) and names[one.other] == str(one.other_scheme)
    ]
    return math.fsum([*losses, *pairs])


@settings(deadline=None, max_examples=60)
@given(data=st.data(), share=st.floats(0, 1), fuse=st.booleans(), limited=st.booleans())
def test_the_best_of_all_plans(tables, every_choice, data, share, fuse, limited) -> None:
    table = data.draw(interacting(tables, fuse=fuse))
    constraints = Constraints(fuse=fuse, most_schemes=2 if limited else None)
    try:
        low = smallest_bytes(table, constraints=constraints)
    except InputError:  # nothing keeps to all of them
        return
    budget = Budget(bytes=max(low, tables.budget(table, share).total_bytes))
    plan = solve(table, budget, constraints=constraints)
    problem = Problem.of(table, budget.total_bytes, constraints=constraints)
    best = min(problem.loss_of(choice) for choice in every_choice(problem) if problem.fits(choice))
    scale = 1e-9 * sum(abs(one.loss) for one in table.interactions) + 1e-12
    assert plan.bytes <= budget.total_bytes
    assert plan.predicted_kl == pytest.approx(best, rel=1e-8, abs=scale)
    assert plan.predicted_kl == pytest.approx(loss_of(table, plan), rel=1e-12, abs=scale)
    losses = math.fsum(choice.loss for choice in plan.choices)
    assert plan.interactions == pytest.approx(plan.predicted_kl - losses, abs=scale)
    assert plan.lower_bound <= best + scale


def table_of_two(tables) -> CostTable:
    """Apart, both would take four bits; together that is worst of all."""
    row = {"int2g64": (2, 0.5), "int4g64": (4, 0.1), "int8": (8, 0.0)}
    table = tables.of([row, row])
    return with_interactions(table, {(("a1", "int4g64"), ("a0", "int4g64")): 3.0})


def test_a_pair_changes_the_plan_and_is_counted(tables) -> None:
    table = table_of_two(tables)
    budget = Budget(bytes=1000 + 8)
    alone = solve(with_interactions(table, {}), budget)
    assert set(map(str, alone.schemes.values())) == {"int4g64"}
    plan = solve(table, budget)
    assert set(map(str, plan.schemes.values())) == {"int2g64", "int4g64"}
    assert plan.solver == "quadratic"
    assert plan.gap == 0
    kept = plan_of(table, alone.schemes, budget_bytes=1008, solver="mine", status="tried")
    assert (kept.predicted_kl, kept.interactions) == (3.2, 3.0)
    assert kept.lower_bound <= plan.predicted_kl
    four = next(plan for plan in uniform(table, budget) if plan.solver == "uniform int4g64")
    assert four.predicted_kl == 3.2


def test_the_frontier_heeds_them(tables) -> None:
    plans = frontier(table_of_two(tables), points=5)
    assert all(a.predicted_kl >= b.predicted_kl for a, b in itertools.pairwise(plans))
    assert all(plan.gap == 0 for plan in plans)


def test_layers_that_share_a_scheme_share_what_they_lose_together(tables) -> None:
    row = {"int2g64": (2, 0.5), "int4g64": (4, 0.1)}
    pairs = {(("a0", "int4g64"), ("a1", "int4g64")): 3.0, (("a0", "int4g64"), ("a1", "int2g64")): 1}
    table = with_interactions(tables.of([row, row], fuse=["q", "q"]), pairs)
    problem = Problem.of(table, 1008, fuse=True)
    assert problem.interactions is None
    assert problem.loss.tolist() == [[1.0, 3.2]]
    assert str(solve(table, Budget(bytes=1008), fuse=True).schemes["a0"]) == "int2g64"
    below = with_interactions(table, {(("a0", "int4g64"), ("a1", "int4g64")): -3.0})
    assert solve(below, Budget(bytes=1008)).predicted_kl == pytest.approx(-2.8)
    with pytest.raises(TableError, match=r"a0, a1 share one scheme, and as int4g64.*below zero"):
        solve(below, Budget(bytes=1008), fuse=True)


def test_limits_and_interactions_together(tables) -> None:
    table = table_of_two(tables)
    limited = Constraints(limits=(AverageBits(most=8 * 6 / 128),))
    problem = Problem.of(table, 10_000, constraints=limited)
    assert choose_solver(problem)[0] == "quadratic"
    assert solve(table, constraints=limited).bytes == 1006
    with pytest.raises(InputError, match="Solve with quadratic"):
        solve(table, constraints=limited, solver="descent")


def test_they_are_kept_in_the_file(tables, tmp_path) -> None:
    table = table_of_two(tables)
    table.save(tmp_path / "costs.json")
    assert CostTable.load(tmp_path / "costs.json") == table
    assert with_interactions(table, {}).interactions == ()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({(("b", "int8"), ("a0", "int8")): 1.0}, "names b as int8, which the table does not have"),
        ({(("a0", "int3"), ("a1", "int8")): 1.0}, "names a0 as int3, which the table"),
        ({(("a0", "int8"), ("a0", "int4g64")): 1.0}, "a0 interacts with itself"),
        ({(("a0", "int8"), ("a1", "int8")): math.nan}, "finite number"),
        ({(("a0", "int8"), ("a1", "int8")): -math.inf}, "finite number"),
        (
            {(("a0", "int8"), ("a1", "int8")): 1.0, (("a1", "int8"), ("a0", "int8")): 1.0},
            "of a1 as int8 with a0 as int8 is given twice",
        ),
    ],
    ids=["layer", "scheme", "itself", "nan", "inf", "twice"],
)
def test_pairs_that_cannot_be_used(tables, pairs, message) -> None:
    with pytest.raises(TableError, match=message):
        with_interactions(table_of_two(tables), pairs)


def test_what_takes_none_says_so(tables) -> None:
    table = table_of_two(tables)
    budget = Budget(bytes=1008)
    plan = solve(table, budget)
    for call in (
        lambda: best_plans(table, budget, 2),
        lambda: explain(table, plan),
        lambda: stability(table, plan),
        lambda: frontier(table, points=None),
        lambda: frontier(table, nested=True),
    ):
        with pytest.raises(TableError, match=r"takes no interactions.*with_interactions"):
            call()
    with pytest.raises(InputError, match="cp_sat takes no interactions"):
        solve(table, budget, solver="cp_sat")
