"""Published formulations: what holds for each on every table, and what each is known by."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplan.allocator import (
    PRESETS,
    AverageBits,
    BitOps,
    Constraints,
    Latencies,
    Preset,
    Problem,
    Seconds,
    solve,
    with_interactions,
)
from bitplan.allocator.ladder import Ladder
from bitplan.allocator.presets import get_preset
from bitplan.allocator.presets.mixdq import CONTENT
from bitplan.allocator.presets.tyr import _grid
from bitplan.errors import ConflictError, InfeasibleError, InputError
from bitplan.schema import Budget, CostTable, Plan

EVERY = [pytest.param(preset, id=name) for name, preset in PRESETS.items()]
EXACT = ("adaquant", "hawq_v3", "lq_lora", "high_impact_ratios")
"""Those that minimise the sum of the table's losses, so that their plan is the best."""


def of(estimator: str, table: CostTable) -> CostTable:
    made = table.provenance.model_copy(update={"estimator": estimator})
    return table.model_copy(update={"provenance": made})


def renamed(table: CostTable, names: list[str]) -> CostTable:
    rows = [
        row.model_copy(update={"layer": row.layer.model_copy(update={"name": name})})
        for row, name in zip(table.rows, names, strict=True)
    ]
    return table.model_copy(update={"rows": tuple(rows)})


def bits(plan: Plan) -> list[int]:
    return [choice.scheme.bits for choice in plan.choices]


@pytest.mark.parametrize("preset", EVERY)
@settings(deadline=None, max_examples=25)
@given(data=st.data(), share=st.floats(0, 1.1), fuse=st.booleans())
def test_a_plan_of_every_table(tables, every_choice, preset: Preset, data, share, fuse) -> None:
    table = data.draw(tables.any())
    budget = tables.budget(table, share)
    try:
        best = solve(table, budget, fuse=fuse)
    except InfeasibleError:
        with pytest.raises(InfeasibleError):
            solve(table, budget, fuse=fuse, preset=preset.name)
        return
    plan = solve(table, budget, fuse=fuse, preset=preset.name)
    assert plan.bytes <= plan.budget_bytes == budget.total_bytes
    assert plan.solver == preset.name
    assert plan.predicted_kl >= best.predicted_kl * (1 - 1e-9)
    assert plan.lower_bound <= best.predicted_kl * (1 + 1e-9)
    if preset.name in EXACT:
        assert plan.predicted_kl == pytest.approx(best.predicted_kl, rel=1e-8)
        assert plan.gap == 0
    assert solve(table, budget, fuse=fuse, preset=preset.name).to_json() == plan.to_json()


@pytest.mark.parametrize("preset", EVERY)
def test_order_of_layers_changes_nothing(tables, preset: Preset) -> None:
    table = tables.synthetic(24, seed=3)
    turned = table.model_copy(update={"rows": table.rows[::-1]})
    budget = tables.budget(table, 0.3)
    assert preset.plan(table, budget).schemes == preset.plan(turned, budget).schemes


@pytest.mark.parametrize("preset", EVERY)
def test_it_says_where_it_is_from_and_what_it_asks_for(tables, preset: Preset) -> None:
    assert all((preset.title, preset.source, preset.objective, preset.menu))
    table = of(preset.estimators[0], tables.synthetic(8))
    budget = tables.budget(table, 0.3)
    own = preset.plan(table, budget)
    assert own.status.startswith(f"As {preset.title} chooses.")
    assert "Note" not in own.status
    other = preset.plan(of("given", table), budget)
    assert f"Note: it asks for a table of {preset.estimators[0]}" in other.status
    assert "this one is of given" in other.status
    assert other.schemes == own.schemes


@pytest.mark.parametrize("preset", EVERY)
def test_pins_ties_and_limits(tables, preset: Preset) -> None:
    table = tables.synthetic(12, seed=1)
    budget = tables.budget(table, 0.3)
    kept = Constraints(pins={"a3": "int6g64"}, ties=[["a0", "a7"]], floors={"a5": 4.0})
    plan = preset.plan(table, budget, constraints=kept)
    assert str(plan.schemes["a3"]) == "int6g64"
    assert plan.schemes["a0"] == plan.schemes["a7"]
    assert plan.schemes["a5"].bits >= 4
    limited = replace(kept, limits=(AverageBits(most=4.0),))
    if preset.limits:
        problem = Problem.of(table, budget.total_bytes, constraints=limited)
        choice = problem.choice_of(preset.plan(table, budget, constraints=limited).schemes)
        assert choice is not None
        assert problem.fits(choice)
    else:
        with pytest.raises(InputError, match=rf"{preset.name} keeps to the bytes alone.*4 bits"):
            preset.plan(table, budget, constraints=limited)


@pytest.mark.parametrize("preset", EVERY)
def test_no_time_at_all(tables, preset: Preset) -> None:
    table = tables.synthetic(40, seed=2)
    budget = tables.budget(table, 0.3)
    plan = preset.plan(table, budget, time_limit_s=0)
    assert plan.bytes <= budget.total_bytes
    assert math.isfinite(plan.gap)


@pytest.mark.parametrize("preset", EVERY)
def test_interactions_are_heeded_or_said_to_be_left_out(tables, preset: Preset) -> None:
    row = {"int2g64": (2, 0.5), "int4g64": (4, 0.1), "int8": (8, 0.0)}
    pairs = {(("a0", "int4g64"), ("a1", "int4g64")): 3.0}
    table = with_interactions(of(preset.estimators[0], tables.of([row, row])), pairs)
    plan = preset.plan(table, Budget(bytes=1008))
    losses = sum(choice.loss for choice in plan.choices)
    assert plan.predicted_kl == pytest.approx(losses + plan.interactions)
    assert plan.lower_bound <= 0.6
    if preset.interactions:
        assert plan.predicted_kl == pytest.approx(0.6)
    else:
        assert plan.interactions == 3.0
        assert "chose without the table's interactions" in plan.status


def test_names_are_found_either_way() -> None:
    assert get_preset("hawq-v3") is get_preset("hawq_v3") is PRESETS["hawq_v3"]
    with pytest.raises(InputError, match=r"There is no preset 'hawq'\. Choose one of adaquant,"):
        get_preset("hawq")


def test_a_preset_has_its_own_solver(tables) -> None:
    table = tables.synthetic(3)
    with pytest.raises(InputError, match="'baq' has a solver of its own, and 'greedy'"):
        solve(table, tables.budget(table, 0.5), preset="baq", solver="greedy")


def test_a_conflict_is_explained(tables) -> None:
    table = tables.synthetic(3)
    kept = Constraints(floors={"a0": 6.0}, ceilings={"a0": 3.0})
    with pytest.raises(ConflictError, match="a0"):
        solve(table, tables.budget(table, 0.5), preset="nncf", constraints=kept)
    with pytest.raises(InfeasibleError, match="the pin 'a0' = bf16"):
        solve(table, tables.budget(table, 0.01), preset="nncf", pins={"a0": "bf16"})


def test_hawq_keeps_to_bit_operations_and_latency(tables) -> None:
    table = of("hessian_trace", tables.synthetic(6, seed=4))
    free = solve(table, 1.0, preset="hawq_v3")
    operations = sum(c.layer.parameters * c.scheme.bits**2 for c in free.choices)
    limit = BitOps(most=operations // 4, activation_bits="weights")
    plan = solve(table, preset="hawq_v3", constraints=Constraints(limits=(limit,)))
    assert sum(c.layer.parameters * c.scheme.bits**2 for c in plan.choices) <= operations // 4
    seconds = {
        (row.layer.name, str(cost.scheme)): cost.scheme.bits * 1e-6
        for row in table.rows
        for cost in row.costs
    }
    timed = Seconds(most=30e-6, latencies=Latencies.of(seconds))
    plan = solve(table, preset="hawq_v3", constraints=Constraints(limits=(timed,)))
    assert sum(bits(plan)) <= 30


def test_nncf_lowers_the_least_sensitive_until_it_fits(tables) -> None:
    # At 8 bits a1 has the least error, at 4 bits the largest.
    loss = {"a0": (3.0, 0.2), "a1": (9.0, 0.1), "a2": (2.0, 0.4), "a3": (1.0, 0.3)}
    table = tables.of([{"int4g64": (4, low), "int8": (8, high)} for low, high in loss.values()])
    budget = Budget(bytes=1000 + 2 * 4 + 2 * 8)
    assert bits(solve(table, budget, preset="nncf")) == [4, 4, 8, 8]
    assert bits(solve(table, budget, preset="nncf-data-free")) == [8, 8, 4, 4]
    # One byte short, one layer more.
    assert bits(solve(table, Budget(bytes=1023), preset="nncf")) == [4, 4, 8, 4]


@pytest.mark.parametrize(
    ("preset", "high"), [("layer_wise_lim", {1, 2}), ("layer_wise_zd", {0, 3})]
)
def test_whole_blocks_by_their_importance(tables, preset, high) -> None:
    scores = [0.1, 0.4, 0.3, 0.2]
    rows = [{"int2g64": (2, s * e), "int4g64": (4, s * e / 16)} for s in scores for e in (1, 2)]
    table = tables.of(rows)
    rows = [
        row.model_copy(update={"layer": row.layer.model_copy(update={"block": index // 2})})
        for index, row in enumerate(table.rows)
    ]
    table = table.model_copy(update={"rows": tuple(rows)})
    plan = solve(table, Budget(bytes=1000 + 4 * 2 + 4 * 4), preset=preset)
    assert {c.layer.block for c in plan.choices if c.scheme.bits == 4} == high
    assert bits(plan).count(4) == 4


def test_layers_in_no_block_are_units_of_their_own(tables) -> None:
    table = tables.of([{"int2g64": (2, loss), "int4g64": (4, loss / 16)} for loss in (1.0, 2.0)])
    rows = [
        row.model_copy(update={"layer": row.layer.model_copy(update={"block": None})})
        for row in table.rows
    ]
    table = table.model_copy(update={"rows": tuple(rows)})
    assert bits(solve(table, Budget(bytes=1006), preset="layer_wise_lim")) == [2, 4]


def test_mixdq_solves_each_group_within_its_share(tables) -> None:
    table = renamed(
        tables.synthetic(16, seed=5),
        [f"block.{index}.{'mlp' if index % 2 else 'attn'}" for index in range(16)],
    )
    budget = tables.budget(table, 0.3)
    plan = solve(table, budget, preset="mixdq")
    best = solve(table, budget)
    assert best.predicted_kl <= plan.predicted_kl <= 1.05 * best.predicted_kl
    # Of what each group has, nothing better is left.
    for is_mlp in (True, False):
        rows = [row for row in table.rows if ("mlp" in row.layer.name) == is_mlp]
        chosen = [c for c in plan.choices if ("mlp" in c.layer.name) == is_mlp]
        part = table.model_copy(update={"rows": tuple(rows), "rest_bytes": 0})
        alone = solve(part, Budget(bytes=sum(c.bytes for c in chosen)))
        assert alone.predicted_kl == pytest.approx(sum(c.loss for c in chosen))
    assert "mlp" in CONTENT


def test_baq_gives_equal_losses_where_its_law_holds(tables) -> None:
    scales = [4.0**power for power in (1, 2, 3)]
    menu = {f"int{b}g64": b for b in (2, 3, 4, 5, 6)}
    rows = [{name: (8 * b, s * 4.0**-b) for name, b in menu.items()} for s in scales]
    plan = solve(tables.of(rows), Budget(bytes=1000 + 8 * (3 + 4 + 5)), preset="baq")
    assert bits(plan) == [3, 4, 5]
    assert len({choice.loss for choice in plan.choices}) == 1


@pytest.mark.parametrize(("preset", "most"), [("evopress", 1.1), ("tyr", 1.35)])
def test_evolutions_come_near(tables, preset, most) -> None:
    table = tables.synthetic(40, seed=7)
    budget = tables.budget(table, 0.25)
    plan, best = solve(table, budget, preset=preset), solve(table, budget)
    nncf = solve(table, budget, preset="nncf")
    assert plan.predicted_kl <= most * best.predicted_kl
    assert plan.predicted_kl < nncf.predicted_kl


def test_tyr_narrows_a_grid_around_the_level(tables) -> None:
    problem = Problem.of(tables.synthetic(3), 10**9)
    ladder = Ladder.of(problem)
    level = np.array([0, 3, 6])
    for distance, kept in ((4, [2, 1, 2]), (2, [4, 3, 4]), (1, [5, 7, 5])):
        part = _grid(problem, ladder, level, distance)
        assert part.legal.sum(axis=1).tolist() == kept
        assert part.at(ladder.choice(level), part.legal).all()
