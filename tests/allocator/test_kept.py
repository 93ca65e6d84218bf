"""Plans record the constraints that they were made under, and what reads them back."""

import pytest

from bitplan.allocator import (
    AbstractResource,
    AverageBits,
    BitOps,
    CacheBytes,
    Constraints,
    Latencies,
    ReadBytes,
    Seconds,
    WeightBytes,
    Workspace,
    best_plans,
    explain,
    frontier,
    recorded_constraints,
    solve,
    stability,
    uniform,
)
from bitplan.allocator.kept import LIMITS, kept
from bitplan.errors import PlanError
from bitplan.schema import Budget, KeptLimit, Plan, Scheme

PINS = {"a3": "int6g64", "a4": ["int4g64", Scheme.parse("int5g64")]}
ALL = Constraints(
    pins=PINS,
    floors={"a5": 4.0, "a6": Scheme.parse("int3g64")},
    ceilings={"a*": "int8"},
    ties=["a[78]", ["a0", "a1"]],
    fuse=True,
    most_schemes=6,
    runtime="bitplan",
    limits=(
        AverageBits(most=4.5),
        WeightBytes(most=2_000_000_000),
        CacheBytes(most=10, context=4, batch=2),
        Workspace(most=10**9),
        ReadBytes(most=10**9),
        BitOps(most=1e15, activation_bits="weights"),
        Seconds(most=1.0, latencies=Latencies.of({("*", "int4g64"): 1e-6})),
    ),
)


def test_everything_comes_back(tables) -> None:
    record = kept(ALL)
    assert record is not None
    plan = solve(tables.synthetic(3), 1.0).model_copy(update={"constraints": record})
    back = recorded_constraints(Plan.from_json(plan.to_json()))
    assert kept(back) == record
    assert back.limits == ALL.limits
    assert back.pins == {"a3": ("int6g64",), "a4": ("int4g64", "int5g64")}
    assert back.floors == {"a5": 4.0, "a6": "int3g64"}
    assert {type(limit) for limit in ALL.limits} == set(LIMITS.values())


def test_every_maker_of_plans_records_them(tables) -> None:
    table = tables.synthetic(9)
    budget = tables.budget(table, 0.4)
    given = Constraints(pins={"a3": "int6g64"}, floors={"a5": 4.0})
    plans = [
        solve(table, budget, constraints=given),
        solve(table, budget, constraints=given, preset="nncf"),
        *frontier(table, points=2, constraints=given),
        *frontier(table, points=2, constraints=given, nested=True),
        *best_plans(table, budget, 2, constraints=given),
        *uniform(table, budget, constraints=given),
    ]
    for plan in plans:
        assert recorded_constraints(plan) == Constraints(
            pins={"a3": ("int6g64",)}, floors={"a5": 4.0}
        )
    assert solve(table, budget).constraints is None
    assert recorded_constraints(solve(table, budget)) == Constraints()


def test_explaining_heeds_what_a_plan_records(tables) -> None:
    table = tables.synthetic(9, error=0.1)
    plan = solve(table, tables.budget(table, 0.4), pins={"a3": "int2g64", "a4": "bf16"}, fuse=True)
    found = explain(table, plan, samples=20)
    moved = {name for move in (*found.promotions, *found.demotions) for name in move.layers}
    assert not moved & {"a3", "a4"}
    again = explain(table, plan, samples=20, pins={"a3": "int2g64", "a4": "bf16"}, fuse=True)
    assert found == again
    assert stability(table, plan, samples=20).kept["a3"] == 1.0
    free = explain(table, plan, samples=20, constraints=Constraints(pins={"a4": "bf16"}))
    assert "a3" in {name for move in free.promotions for name in move.layers}
    assert free.best_kl < found.best_kl


def test_limits_are_named_where_they_are_not_heeded(tables) -> None:
    table = tables.synthetic(9, error=0.1)
    limited = Constraints(limits=(AverageBits(most=4.0),), most_schemes=3)
    plan = solve(table, constraints=limited)
    names = ("at most 4 bits per weight on average", "at most 3 schemes")
    assert explain(table, plan, samples=5).left_out == names
    assert stability(table, plan, samples=5).left_out == names
    assert explain(table, solve(table, Budget(bytes=plan.bytes)), samples=5).left_out == ()


def test_limits_that_are_not_known(tables) -> None:
    class Own(AbstractResource):
        def unit(self, table):
            raise NotImplementedError

        def amounts(self, table):
            raise NotImplementedError

    # What could not be read back is not recorded in part.
    assert kept(Constraints(pins={"a0": "int8"}, limits=(Own(most=1),))) is None
    record = kept(ALL)
    assert record is not None
    newer = record.model_copy(update={"limits": (KeptLimit(resource="Joules", most=3),)})
    plan = solve(tables.synthetic(3), 1.0).model_copy(update={"constraints": newer})
    with pytest.raises(PlanError, match="a limit on Joules, which this bitplan does not know"):
        recorded_constraints(plan)
