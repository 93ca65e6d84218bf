"""Pins, fused layers, uniform plans, and plans of a given assignment."""

import pytest

from bitplan.allocator import (
    Status,
    frontier,
    plan_of,
    smallest_bytes,
    solve,
    uniform,
)
from bitplan.errors import InfeasibleError, InputError, SchemeError, TableError
from bitplan.schema import Budget, Cost, CostTable, Kind, Layer, Plan, Row, Scheme
from plans import PROVENANCE

BITS = {"int2g64": 2, "int4g64": 4, "int8": 8, "bf16": 16}
LOSS = {"int2g64": 1.0, "int4g64": 0.1, "int8": 0.01, "bf16": 0.0}
REST = 100


def row(name: str, weights: int, schemes: str, fuse: str | None = None, scale: float = 1) -> Row:
    return Row(
        layer=Layer(name=name, kind=Kind.LINEAR, shape=(weights, 1), fuse=fuse),
        costs=tuple(
            Cost(
                scheme=Scheme.parse(scheme),
                bytes=weights * BITS[scheme] // 8,
                loss=LOSS[scheme] * scale,
                standard_error=0.0,
            )
            for scheme in schemes.split()
        ),
    )


def table_of(*rows: Row) -> CostTable:
    return CostTable(provenance=PROVENANCE, rest_bytes=REST, rows=rows)


ALL = "int2g64 int4g64 int8 bf16"
TABLE = table_of(
    row("model.embed", 800, "int8 bf16"),
    row("model.0.q", 80, ALL, "0.qkv", 5.0),
    row("model.0.k", 40, "int2g64 int4g64 int8", "0.qkv", 0.1),
    row("model.0.up", 160, ALL, None, 2.0),
    row("model.1.up", 160, ALL, None, 3.0),
)


def names(plan: Plan) -> dict[str, str]:
    return {layer: str(scheme) for layer, scheme in plan.schemes.items()}


@pytest.mark.parametrize("solver", ["cp_sat", "lagrangian"])
def test_pins(solver: str) -> None:
    pins = {"*.up": "int4g64", "model.1.up": Scheme.parse("int2g64"), "*.q": ["int4g64", "int8"]}
    plan = solve(TABLE, 1.0, solver=solver, pins=pins)
    assert names(plan) == {
        "model.embed": "bf16",
        "model.0.q": "int8",
        "model.0.k": "int8",
        "model.0.up": "int4g64",
        "model.1.up": "int2g64",
    }
    assert smallest_bytes(TABLE, pins=pins) == REST + 800 + 40 + 10 + 80 + 40
    assert all(str(plan.schemes["model.1.up"]) == "int2g64" for plan in frontier(TABLE, pins=pins))
    with pytest.raises(InfeasibleError, match="smallest plan needs 1,070"):
        solve(TABLE, Budget(bytes=1069), solver=solver, pins=pins)


def test_a_pin_on_some_layers_may_name_schemes_that_others_lack() -> None:
    plan = solve(TABLE, 1.0, pins={"*": ["int8", "int2g64"]})
    assert set(names(plan).values()) == {"int8"}


@pytest.mark.parametrize(
    ("pins", "error", "message"),
    [
        ({"model.0.qq": "int8"}, InputError, r"matches no layer\. Closest of 5: model\.0\.q"),
        ({"*.down": "int8"}, InputError, "matches no layer"),
        ({"*.q": "int3"}, SchemeError, r"does not have\. Closest of 4: int"),
        ({"*.q": "float9"}, SchemeError, "is not a scheme"),
        ({"*": "int4g64"}, SchemeError, r"model\.embed is pinned to int4g64.*only in bf16, int8"),
        ({"*.q": []}, SchemeError, "no scheme at all"),
    ],
    ids=["slip", "nothing", "not measured", "no scheme", "not legal", "empty"],
)
def test_pins_that_cannot_be_used(pins: dict, error: type[InputError], message: str) -> None:
    with pytest.raises(error, match=message):
        solve(TABLE, 1.0, pins=pins)


@pytest.mark.parametrize("solver", ["cp_sat", "lagrangian"])
def test_fused_layers_take_one_scheme(solver: str) -> None:
    budget = Budget(bytes=REST + 800 + 40 + 40 + 90)
    pins = {"*.up": "int2g64", "*.embed": "int8"}
    free, fused = (
        solve(TABLE, budget, solver=solver, fuse=fuse, pins=pins) for fuse in (False, True)
    )
    assert (names(free)["model.0.q"], names(free)["model.0.k"]) == ("int8", "int2g64")
    # 90 bytes are left for q and k, and int8 for both needs 120.
    assert (names(fused)["model.0.q"], names(fused)["model.0.k"]) == ("int4g64", "int4g64")
    assert fused.predicted_kl >= free.predicted_kl
    plans = frontier(TABLE, fuse=True, solver=solver)
    assert all(plan.schemes["model.0.q"] == plan.schemes["model.0.k"] for plan in plans)
    # k has no bf16, so neither has q.
    assert names(plans[-1])["model.0.q"] == "int8"


def test_fused_layers_without_a_common_scheme() -> None:
    table = table_of(row("q", 8, "int8", "qk"), row("k", 8, "int2g64", "qk"))
    assert solve(table, 1.0).bytes == REST + 10
    with pytest.raises(TableError, match="k, q have no scheme in common"):
        solve(table, 1.0, fuse=True)
    with pytest.raises(TableError, match="no scheme in common"):
        solve(TABLE, 1.0, fuse=True, pins={"*.q": "int8", "*.k": "int2g64"})


def test_uniform_plans() -> None:
    plans = uniform(TABLE)
    assert [plan.solver for plan in plans] == [
        "uniform bf16",
        "uniform int8",
        "uniform int4g64",
        "uniform int2g64",
    ]
    bf16, int8, int4, int2 = map(names, plans)
    assert bf16 == dict.fromkeys(bf16, "bf16") | {"model.0.k": "int8"}  # its largest
    assert int8 == dict.fromkeys(int8, "int8")
    assert int4 == dict.fromkeys(int4, "int4g64") | {"model.embed": "int8"}  # not smaller
    assert int2 == dict.fromkeys(int2, "int2g64") | {"model.embed": "int8"}
    for plan in plans:
        assert plan.status == Status.UNIFORM.value
        assert plan.budget_bytes == plan.bytes
        assert plan.lower_bound <= solve(TABLE, Budget(bytes=plan.bytes)).predicted_kl * (1 + 1e-12)


def test_uniform_plans_within_a_budget_and_pins() -> None:
    size = REST + 800 + 440
    plans = uniform(TABLE, Budget(bytes=size))
    assert [plan.bytes for plan in plans] == [size, REST + 800 + 220, REST + 800 + 110]
    assert {plan.budget_bytes for plan in plans} == {size}
    assert uniform(TABLE, Budget(bytes=REST + 800)) == []
    pinned = uniform(TABLE, pins={"model.embed": "int8", "model.0.*": "int2g64"}, fuse=True)
    assert {str(plan.schemes["model.embed"]) for plan in pinned} == {"int8"}
    assert {str(plan.schemes["model.0.q"]) for plan in pinned} == {"int2g64"}
    assert [str(plan.schemes["model.1.up"]) for plan in pinned] == list(reversed(BITS))


def test_all_layers_pinned_leave_one_uniform_plan() -> None:
    [plan] = uniform(TABLE, pins={"*": ["int2g64", "int8"], "model.0.*": "int4g64"})[1:]
    assert names(plan)["model.1.up"] == "int2g64"
    [plan] = uniform(TABLE, pins={"*": "int8"})
    assert plan.solver == "uniform int8"


def test_plan_of_an_assignment() -> None:
    solved = solve(TABLE, Budget(bytes=REST + 1200), solver="cp_sat")
    given = {name: str(scheme) for name, scheme in solved.schemes.items()}
    plan = plan_of(TABLE, given, budget_bytes=REST + 1200, solver="refined", status="By hand.")
    assert plan.choices == solved.choices
    assert (plan.solver, plan.status) == ("refined", "By hand.")
    assert plan.lower_bound <= solved.predicted_kl
    assert Plan.from_json(plan.to_json()) == plan
    bounded = plan_of(
        TABLE, given, budget_bytes=9999, solver="x", status="x", lower_bound=plan.predicted_kl / 4
    )
    assert bounded.gap == 0.75


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model.0.upp": "int8"}, InputError, r"'model\.0\.upp', which is not a layer.*model\.0"),
        ({"model.embed": None}, InputError, r"no scheme for 1 of 5 layers.*model\.embed"),
        ({"model.embed": "int2g64"}, SchemeError, "was not measured as int2g64, only as int8, bf"),
    ],
    ids=["extra", "missing", "not measured"],
)
def test_assignments_that_cannot_be_used(
    change: dict, error: type[InputError], message: str
) -> None:
    assignment = dict.fromkeys((each.layer.name for each in TABLE.rows), "int8") | change
    given = {name: scheme for name, scheme in assignment.items() if scheme}
    with pytest.raises(error, match=message):
        plan_of(TABLE, given, budget_bytes=10**6, solver="x", status="x")
