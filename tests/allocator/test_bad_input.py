"""Tables, pins and numbers that cannot be used: what is told, whichever function is called."""

import json
import math

import pytest

from bitplan.allocator import (
    AverageBits,
    Constraints,
    best_plans,
    explain,
    frontier,
    solve,
    stability,
    uniform,
)
from bitplan.errors import InputError, PlanError, SchemeError, TableError
from bitplan.schema import Budget, CostTable
from bitplan.schema.artefact import digest_of

CALLS = {
    "solve": lambda table, budget, **given: solve(table, budget, **given),
    "preset": lambda table, budget, **given: solve(table, budget, preset="nncf", **given),
    "frontier": lambda table, budget, **given: frontier(table, points=3, **given),
    "uniform": lambda table, budget, **given: uniform(table, budget, **given),
    "best_plans": lambda table, budget, **given: best_plans(table, budget, 2, **given),
}
EVERY = [pytest.param(call, id=name) for name, call in CALLS.items()]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("rows.1.costs.0.loss", math.nan, r"rows\.1\.costs\.0\.loss \(a1\): .*but it is nan"),
        ("rows.1.costs.0.loss", -1.0, r"\(a1\): .*greater than or equal to 0, but it is -1"),
        ("rows.1.costs.0.bytes", -3, r"rows\.1\.costs\.0\.bytes \(a1\): .*but it is -3"),
        ("rows.0.costs.0.standard_error", math.inf, r"standard_error \(a0\): .*but it is inf"),
        ("rows.1.costs", [], r"rows\.1\.costs \(a1\): Tuple should have at least 1 item"),
        ("rest_bytes", -4, "rest_bytes: .*but it is -4"),
        ("rows", [], "rows: Tuple should have at least 1 item"),
        ("version", 7, "schema version 7; this bitplan reads version 1"),
        (
            "interactions",
            [{"layer": "a0", "scheme": "int8", "other": "b", "other_scheme": "int8", "loss": 1.0}],
            "an interaction names b as int8, which the table does not have",
        ),
    ],
)
def test_files_of_tables_name_the_layer(tables, tmp_path, place, value, message) -> None:
    content = json.loads(tables.synthetic(3).to_json())
    del content["digest"]
    *path, last = [int(part) if part.isdecimal() else part for part in place.split(".")]
    inside = content
    for part in path:
        inside = inside[part]
    inside[last] = value
    (tmp_path / "costs.json").write_text(json.dumps({**content, "digest": digest_of(content)}))
    with pytest.raises(TableError, match=message) as error:
        CostTable.load(tmp_path / "costs.json")
    assert "again" in str(error.value)
    assert "errors.pydantic.dev" not in str(error.value)


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": math.nan}, "Row a1 has a loss that is no number from 0 up"),
        ({"bytes": -5}, "Row a1 has a scheme of fewer than 0 bytes"),
        (None, "The layer a1 has no legal scheme in the cost table"),
    ],
    ids=["nan", "bytes", "none"],
)
def test_tables_that_were_made_past_their_checks(tables, call, change, message) -> None:
    table = tables.synthetic(3)
    row = table.rows[1]
    costs = () if change is None else tuple(one.model_copy(update=change) for one in row.costs)
    rows = (table.rows[0], row.model_copy(update={"costs": costs}), table.rows[2])
    with pytest.raises(TableError, match=message):
        call(table.model_copy(update={"rows": rows}), tables.budget(table, 0.5))


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize(
    ("pins", "error", "message"),
    [
        ({"b*": "int8"}, InputError, r"The pin 'b\*' matches no layer\. Closest of 3: a"),
        ({"a0": "int8s"}, SchemeError, "asks for int8s, which the cost table does not have. Clos"),
        ({"a0": ["int8", "int8"]}, SchemeError, "The pin 'a0' names int8 twice"),
        ({"a0": []}, SchemeError, "a0 is pinned to no scheme at all"),
        ({"a0": None}, SchemeError, "The pin 'a0' is None. Give a scheme's name"),
        ({"a0": 4}, SchemeError, "The pin 'a0' is 4. Give a scheme's name"),
        ([("a0", "int8")], InputError, "Give a dictionary"),
    ],
)
def test_pins(tables, call, pins, error, message) -> None:
    table = tables.synthetic(3)
    with pytest.raises(error, match=message):
        call(table, tables.budget(table, 0.5), pins=pins)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"floors": {"a0": None}}, "The floor 'a0' is None bits; it must be above zero"),
        ({"ceilings": {"a0": math.nan}}, "The ceiling 'a0' is nan bits"),
        ({"ties": [3]}, "The tie 3 is no wildcard"),
        ({"limits": [4.0]}, "4.0 limits nothing. Give a limit as AverageBits"),
        ({"pins": {"a0": "int8", "a1": "bf16"}, "ties": ["a*"]}, "have no scheme in common"),
    ],
)
def test_constraints(tables, given, message) -> None:
    table = tables.synthetic(3)
    with pytest.raises(InputError, match=message):
        solve(table, 1.0, constraints=Constraints(**given))


@pytest.mark.parametrize("limit_s", [-1.0, math.nan])
def test_time_limits_that_are_none(tables, limit_s) -> None:
    table = tables.synthetic(3)
    budget = tables.budget(table, 0.5)
    plan = solve(table, budget)
    for call in (
        lambda: solve(table, budget, time_limit_s=limit_s),
        lambda: solve(table, budget, preset="nncf", time_limit_s=limit_s),
        lambda: frontier(table, time_limit_s=limit_s),
        lambda: best_plans(table, budget, 2, time_limit_s=limit_s),
        lambda: explain(table, plan, time_limit_s=limit_s),
    ):
        with pytest.raises(InputError, match="it must be a number from 0 up"):
            call()


def test_no_time_is_a_plan_with_its_gap(tables) -> None:
    table = tables.synthetic(20)
    budget = tables.budget(table, 0.3)
    limited = Constraints(limits=(AverageBits(most=4.0),), most_schemes=3)
    for constraints in (None, limited):
        plan = solve(table, budget, constraints=constraints, time_limit_s=0)
        assert plan.bytes <= budget.total_bytes
        assert 0 < plan.gap < 1
        assert "The time limit ended the search" in plan.status
    [only] = best_plans(table, budget, 3, time_limit_s=0)
    assert only.gap > 0


def test_a_table_of_another_model(tables) -> None:
    table = tables.synthetic(3)
    plan = solve(table, Budget(bytes=10**9))
    made = table.provenance.model_copy(update={"model": "other", "model_digest": "x" * 64})
    other = table.model_copy(update={"provenance": made})
    for call in (lambda: explain(other, plan), lambda: stability(other, plan)):
        with pytest.raises(PlanError, match=r"The plan is of tiny .* the cost table of other"):
            call()
