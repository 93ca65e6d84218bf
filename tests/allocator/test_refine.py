"""Refinement against a model whose true losses are known, and differ from the table's."""

import numpy as np
import pytest

from bitplan.allocator import refine, solve
from bitplan.schema import Budget, Cost, CostTable, Kind, Layer, Row, Scheme
from plans import PROVENANCE

NAMES = {"int2g64": 2, "int3g64": 3, "int4g64": 4, "int6g64": 6, "int8g64": 8}
KINDS = ("embed", "q_proj", "down_proj")
BLOCKS = 8


def table_of(scale: dict[str, float]) -> CostTable:
    """A table whose losses fall by four with every bit, times a factor for each kind of layer."""
    rng = np.random.default_rng(0)
    rows = []
    for kind in KINDS:
        for block in range(BLOCKS):
            own = scale[kind] * rng.lognormal()
            costs = tuple(
                Cost(
                    scheme=Scheme.parse(name),
                    bytes=100 * bits,
                    loss=own * 4.0**-bits,
                    standard_error=0.0,
                )
                for name, bits in NAMES.items()
            )
            name = f"layers.{block}.{kind}"
            layer = Layer(name=name, kind=Kind.LINEAR, shape=(8, 100), block=block)
            rows.append(Row(layer=layer, costs=costs))
    return CostTable(provenance=PROVENANCE, rest_bytes=0, rows=tuple(rows))


RIGHT = dict.fromkeys(KINDS, 1.0)
WRONG = {"embed": 5.0, "q_proj": 1.0, "down_proj": 0.5}
BUDGET = Budget(bytes=100 * 3 * len(KINDS) * BLOCKS)


class Model:
    """What `refine` measures: the true losses of an assignment, noisy by sequence."""

    def __init__(self, noise: float = 0.0) -> None:
        table = table_of(RIGHT)
        self.loss = {r.layer.name: {c.scheme: c.loss for c in r.costs} for r in table.rows}
        self.rng = np.random.default_rng(1)
        self.noise = noise
        self.calls = 0

    def __call__(self, assignment) -> np.ndarray:
        self.calls += 1
        true = sum(self.loss[name][scheme] for name, scheme in assignment.items())
        return true + self.noise * self.rng.standard_normal(8)


def test_a_wrong_table_is_corrected():
    table, model = table_of(WRONG), Model()
    start = solve(table, BUDGET)
    best = model(solve(table_of(RIGHT), BUDGET).schemes).mean()
    refined = refine(table, start, model, evaluations=30)
    assert refined.start_kl == pytest.approx(model(start.schemes).mean())
    assert refined.kl == pytest.approx(model(refined.plan.schemes).mean())
    # It gets back at least nine tenths of what the wrong table lost.
    assert refined.kl - best <= 0.1 * (refined.start_kl - best)
    assert refined.plan.bytes <= BUDGET.total_bytes
    assert refined.plan.solver == "refine"
    assert f"{refined.accepted} of " in refined.plan.status


def test_a_right_table_stays():
    table, model = table_of(RIGHT), Model()
    start = solve(table, BUDGET)
    refined = refine(table, start, model, evaluations=30)
    assert refined.kl == pytest.approx(refined.start_kl, rel=1e-3)
    if not refined.accepted:
        assert refined.plan == start


def test_noise_alone_is_rarely_taken_for_progress():
    """Accepting only beyond the paired standard error keeps what is shipped close to the best."""
    table, model = table_of(RIGHT), Model(noise=1e-3)
    start = solve(table, BUDGET)
    refined = refine(table, start, model, evaluations=30)
    quiet = Model()
    assert quiet(refined.plan.schemes).mean() <= 1.3 * quiet(start.schemes).mean()


@pytest.mark.parametrize("evaluations", [1, 2, 3, 5, 12])
def test_never_measures_more_than_it_may(evaluations):
    table, model = table_of(WRONG), Model()
    refined = refine(table, solve(table, BUDGET), model, evaluations=evaluations)
    assert refined.measured == model.calls <= evaluations


def test_same_inputs_same_plan():
    table = table_of(WRONG)
    first, second = (
        refine(table, solve(table, BUDGET), Model(noise=1e-4), evaluations=20) for _ in range(2)
    )
    assert first.plan.to_json() == second.plan.to_json()


def test_pins_hold():
    table, pins = table_of(WRONG), {"*.embed": "int4g64"}
    start = solve(table, BUDGET, pins=pins)
    refined = refine(table, start, Model(), evaluations=20, pins=pins)
    assert refined.accepted
    assert {str(s) for n, s in refined.plan.schemes.items() if n.endswith("embed")} == {"int4g64"}


def test_a_kl_that_is_not_a_number_is_never_taken():
    table = table_of(WRONG)
    start = solve(table, BUDGET)
    kl = Model()

    def measure(assignment):
        return kl(assignment) if kl.calls == 0 else np.full(8, np.nan) * kl(assignment)

    refined = refine(table, start, measure, evaluations=20)
    assert refined.accepted == 0
    assert refined.plan == start


def test_progress_ends_at_the_total():
    told = []
    table = table_of(RIGHT)
    refine(
        table,
        solve(table, BUDGET),
        Model(),
        evaluations=9,
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    assert told[0] == ("refine", 0, 9)
    assert told[-1] == ("refine", 9, 9)
