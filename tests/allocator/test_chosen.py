"""A plan finds its place in a table, or is told why it has none."""

import pytest

from bitplan.allocator import Problem, plan_of, solve
from bitplan.allocator.chosen import chosen
from bitplan.errors import InputError, PlanError
from bitplan.schema import Budget

COSTS = {"int2g64": (10, 5.0), "int4g64": (20, 1.0), "int8": (40, 0.0)}


def test_the_choice_is_the_plan(tables) -> None:
    table = tables.synthetic(9)
    plan = solve(table, Budget(bytes=50_000))
    problem, choice = chosen(table, plan)
    assert problem.assignment(choice) == plan.schemes
    assert problem.loss_of(choice) == pytest.approx(plan.predicted_kl, rel=1e-12)
    assert problem.budget_bytes + problem.rest_bytes == 50_000


def test_a_plan_larger_than_its_budget_gets_its_own_bytes(tables) -> None:
    table = tables.of([COSTS])
    plan = plan_of(table, {"a0": "int8"}, budget_bytes=1, solver="x", status="x")
    assert chosen(table, plan)[0].budget_bytes == 40


def test_fused_layers_and_pins(tables) -> None:
    table = tables.of([COSTS, COSTS, COSTS], fuse=["qk", "qk", None])
    pins = {"a2": "int2g64"}
    plan = solve(table, Budget(bytes=1000 + 60), fuse=True, pins=pins)
    problem, choice = chosen(table, plan, fuse=True, pins=pins)
    assert [len(names) for names in problem.layers] == [2, 1]
    assert problem.fits(choice)
    unequal = {"a0": "int8", "a1": "int2g64", "a2": "int8"}
    plan = plan_of(table, unequal, budget_bytes=2000, solver="x", status="x")
    with pytest.raises(PlanError, match=r"fused layers a0, a1 different schemes: int8, int2g64"):
        chosen(table, plan, fuse=True)
    with pytest.raises(PlanError, match=r"gives a2 the scheme int8, but it may only take int2g64"):
        chosen(table, plan, pins=pins)


def test_another_model_or_table_is_refused(tables) -> None:
    table = tables.of([COSTS, COSTS])
    plan = solve(table, 1.0)
    made = plan.provenance.model_copy(update={"model_digest": "other"})
    with pytest.raises(PlanError, match="The plan is of tiny"):
        chosen(table, plan.model_copy(update={"provenance": made}))
    with pytest.raises(InputError, match="'a1', which is not a layer"):
        chosen(tables.of([COSTS]), plan)
    with pytest.raises(InputError, match="a1 was not measured as int8"):
        chosen(tables.of([COSTS, {"int2g64": (10, 1.0)}]), plan)
    assert isinstance(chosen(table, plan)[0], Problem)
