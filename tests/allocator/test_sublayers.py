"""Sublayers stay or go whole, whatever the solver; against every choice of small tables."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import (
    SOLVERS,
    AverageBits,
    Constraints,
    Problem,
    best_plans,
    check_plan,
    explain,
    frontier,
    plan_of,
    solve,
    uniform,
)
from bitplan.errors import ConflictError, InputError, SchemeError
from bitplan.schema import Budget, Cost, CostTable, Scheme, Sublayer

NONE = Scheme.parse("none")
EXACT = sorted(name for name, each in SOLVERS.items() if each.exact)

MENU = {"int2g64": (20, 0.5), "int3g64": (30, 0.2), "int4g64": (40, 0.1), "bf16": (160, 0.0)}


def removable(table: CostTable, sizes: list[int], losses: list[float]) -> CostTable:
    """The table with its first rows as sublayers of so many layers, of such losses."""
    names = [row.layer.name for row in table.rows]
    starts = list(itertools.accumulate(sizes, initial=0))
    sublayers = tuple(
        Sublayer(name=f"sub{index}", layers=tuple(names[start : start + size]))
        for index, (start, size) in enumerate(zip(starts, sizes, strict=False))
        if start + size <= len(names)
    )
    last = {one.layers[-1]: loss for one, loss in zip(sublayers, losses, strict=False)}
    inside = {name for one in sublayers for name in one.layers}
    rows = tuple(
        row.model_copy(
            update={
                "costs": (
                    *row.costs,
                    Cost(
                        scheme=NONE,
                        bytes=0,
                        loss=last.get(row.layer.name, 0.0),
                        standard_error=0.0,
                    ),
                )
            }
        )
        if row.layer.name in inside
        else row
        for row in table.rows
    )
    return CostTable(
        provenance=table.provenance, rest_bytes=table.rest_bytes, rows=rows, sublayers=sublayers
    )


@pytest.fixture
def small(tables) -> CostTable:
    """Two sublayers of two layers, and one layer that is in none."""
    return removable(tables.of([MENU] * 5), [2, 2], [0.3, 5.0])


def every_plan(table: CostTable) -> Iterator[tuple[dict[str, Scheme], int, float]]:
    """Each assignment in which sublayers are whole, its bytes and its loss."""
    for costs in itertools.product(*(row.costs for row in table.rows)):
        found = {row.layer.name: cost for row, cost in zip(table.rows, costs, strict=True)}
        if is_whole(table, {name: cost.scheme for name, cost in found.items()}):
            size = table.rest_bytes + sum(cost.bytes for cost in costs)
            yield ({n: c.scheme for n, c in found.items()}, size, sum(cost.loss for cost in costs))


def is_whole(table: CostTable, schemes: dict[str, Scheme]) -> bool:
    return all(len({schemes[name].is_none for name in one.layers}) == 1 for one in table.sublayers)


def drawn(tables) -> st.SearchStrategy[CostTable]:
    sizes = st.lists(st.integers(1, 3), min_size=1, max_size=2)
    losses = st.lists(st.sampled_from([0.0, 0.3, 1.0, 3.0]), min_size=2, max_size=2)
    return st.builds(removable, tables.any(max_rows=5), sizes, losses)


@pytest.mark.parametrize("solver", EXACT)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_an_exact_solver_finds_the_best_of_all_whole_plans(tables, solver, data):
    table = data.draw(drawn(tables))
    budget = tables.budget(table, data.draw(st.floats(0, 1)))
    best = min(loss for _, size, loss in every_plan(table) if size <= budget.total_bytes)
    plan = solve(table, budget, solver=solver)
    assert is_whole(table, plan.schemes)
    assert plan.predicted_kl == pytest.approx(best, rel=1e-6, abs=1e-12)
    assert plan.lower_bound <= best * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_solver_keeps_sublayers_whole_and_bounds_the_best(tables, solver, data):
    table = data.draw(drawn(tables))
    budget = tables.budget(table, data.draw(st.floats(0, 1)))
    best = min(loss for _, size, loss in every_plan(table) if size <= budget.total_bytes)
    plan = solve(table, budget, solver=solver)
    assert is_whole(table, plan.schemes)
    assert plan.bytes <= budget.total_bytes
    assert plan.lower_bound <= best * (1 + 1e-9) + 1e-12
    assert plan.predicted_kl >= best * (1 - 1e-9)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_with_another_limit_the_best_is_found_too(tables, data):
    table = data.draw(drawn(tables))
    limit = AverageBits(most=data.draw(st.floats(0.1, 6)))
    weights = sum(row.layer.parameters for row in table.rows)
    most = table.rest_bytes + int(limit.most * weights / 8)
    fitting = [loss for _, size, loss in every_plan(table) if size <= most]
    budget = tables.budget(table, 1.0)
    constraints = Constraints(limits=[limit])
    if not fitting:
        with pytest.raises(ConflictError):
            solve(table, budget, constraints=constraints)
        return
    plan = solve(table, budget, constraints=constraints)
    assert is_whole(table, plan.schemes)
    assert plan.predicted_kl == pytest.approx(min(fitting), rel=1e-6, abs=1e-12)


def test_a_sublayer_goes_where_its_bytes_are_worth_more_elsewhere(small):
    plan = solve(small, Budget(bytes=small.rest_bytes + 120))
    assert [str(plan.schemes[f"a{row}"]) for row in (0, 1)] == ["none", "none"]
    assert all(not plan.schemes[f"a{row}"].is_none for row in (2, 3, 4))


def test_the_frontier_begins_with_everything_left_out_and_never_loses_more(small):
    plans = frontier(small, points=12)
    assert plans[0].bytes == small.rest_bytes + 20
    assert all(is_whole(small, plan.schemes) for plan in plans)
    losses = [plan.predicted_kl for plan in plans]
    assert losses == sorted(losses, reverse=True)
    curve = frontier(small, points=None)
    assert all(is_whole(small, curve.plan(point).schemes) for point in range(len(curve)))
    with pytest.raises(InputError, match="left_out"):
        frontier(small, points=5, nested=True)


def test_the_order_of_rows_changes_nothing(small):
    budget = Budget(bytes=small.rest_bytes + 250)
    turned = small.model_copy(update={"rows": small.rows[::-1]})
    assert solve(turned, budget).schemes == solve(small, budget).schemes


def test_pins_leave_out_a_whole_sublayer_or_are_refused(small):
    budget = Budget(bytes=small.rest_bytes + 10_000)
    plan = solve(small, budget, pins={"a2": "none", "a3": "none"})
    assert {name for name, scheme in plan.schemes.items() if scheme.is_none} == {"a2", "a3"}
    with pytest.raises(SchemeError, match=r"a3 would stay\. Pin all of sub1"):
        solve(small, budget, pins={"a2": "none"})
    with pytest.raises(SchemeError, match="a4 is pinned to none"):
        solve(small, budget, pins={"*": "none"})
    # One layer that must be kept keeps the others.
    plan = solve(small, Budget(bytes=small.rest_bytes + 100), pins={"a0": "int2g64"})
    assert not plan.schemes["a1"].is_none


def test_an_assignment_that_leaves_out_a_part_is_refused(small):
    kept = {f"a{row}": "int2g64" for row in range(5)}
    with pytest.raises(SchemeError, match="Give it to all of sub0"):
        plan_of(small, kept | {"a1": "none"}, budget_bytes=10_000, solver="mine", status="")


def test_what_is_left_out_can_be_said(small):
    budget = Budget(bytes=small.rest_bytes + 120)
    nothing = solve(small, budget, constraints=Constraints(left_out=frozenset()))
    assert not any(scheme.is_none for scheme in nothing.schemes.values())
    other = solve(small, budget, constraints=Constraints(left_out=frozenset(["a3"])))
    assert {name for name, scheme in other.schemes.items() if scheme.is_none} == {"a2", "a3"}
    assert Constraints(left_out=frozenset()).fixes_nothing
    assert not Constraints(left_out=frozenset(["a3"])).fixes_nothing


def test_fused_rows_and_ties_within_a_sublayer_stay_whole(tables):
    table = removable(tables.of([MENU] * 4, fuse=["qk", "qk", None, None]), [3], [0.1])
    plan = solve(table, Budget(bytes=table.rest_bytes + 200), fuse=True)
    assert [plan.schemes[f"a{row}"].is_none for row in range(4)] == [True, True, True, False]
    plan = solve(table, Budget(bytes=table.rest_bytes + 400), pins={"a2": "int4g64"}, fuse=True)
    assert plan.schemes["a0"] == plan.schemes["a1"] != NONE


def test_a_tie_across_sublayers_keeps_them(small):
    budget = Budget(bytes=small.rest_bytes + 120)
    plan = solve(small, budget, constraints=Constraints(ties=[["a0", "a2"]]))
    assert not any(scheme.is_none for scheme in plan.schemes.values())
    gone = {f"a{row}": "none" for row in range(4)}
    plan = solve(small, budget, pins=gone, constraints=Constraints(ties=[["a0", "a2"]]))
    assert sum(scheme.is_none for scheme in plan.schemes.values()) == 4


def test_layers_of_a_sublayer_that_cannot_go_together_conflict(small):
    constraints = Constraints(floors={"a1": "int2g64"}, ceilings={"a0": 1.0})
    with pytest.raises(ConflictError, match="The layer a0 has no scheme") as caught:
        solve(small, Budget(bytes=small.rest_bytes + 120), constraints=constraints)
    assert len(caught.value.conflict) == 2


def test_what_counts_schemes_asks_what_is_left_out(small):
    budget = Budget(bytes=small.rest_bytes + 120)
    with pytest.raises(InputError, match="At most 2 schemes cannot be kept to"):
        solve(small, budget, constraints=Constraints(most_schemes=2))
    whole = Constraints(most_schemes=2, left_out=frozenset())
    assert len(set(solve(small, budget, constraints=whole).schemes.values())) <= 2


def test_uniform_plans_leave_nothing_out_and_best_plans_what_the_best_does(small):
    assert not any(s.is_none for plan in uniform(small) for s in plan.schemes.values())
    plans = best_plans(small, Budget(bytes=small.rest_bytes + 120), 4)
    gone = [{n for n, s in plan.schemes.items() if s.is_none} for plan in plans]
    assert gone == [{"a0", "a1"}] * 4
    assert len({str(plan.schemes) for plan in plans}) == 4


def test_an_explanation_says_what_is_left_out(small):
    plan = solve(small, Budget(bytes=small.rest_bytes + 120))
    why = {name: reason.why for reason in explain(small, plan).reasons for name in reason.layers}
    assert why["a0"] == why["a1"] == "It is left out, with all of its sublayer."
    assert "left out" not in why["a2"]


def test_a_plan_in_mixes_that_others_beat_is_one_of_its_table(small):
    plan = solve(small, Budget(bytes=small.rest_bytes + 10_000), pins={"a0": "int2g64"})
    given = Constraints(left_out=frozenset())
    problem = Problem.of(small, plan.budget_bytes, constraints=given)
    check_plan(small, problem, plan)


@pytest.mark.parametrize(
    "sublayers",
    [(), (Sublayer(name="sub", layers=("a0",)),), (Sublayer(name="sub", layers=("a0", "a4")),)],
    ids=["none", "too few", "another layer"],
)
def test_a_table_says_which_layers_go_together(small, sublayers):
    content = {name: getattr(small, name) for name in CostTable.model_fields}
    with pytest.raises(ValueError, match="sublayers"):
        CostTable(**(content | {"sublayers": sublayers}))
    assert CostTable.from_json(small.to_json()) == small
