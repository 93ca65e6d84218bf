"""What the search asks of a real model: changes told by a gradient, and plans of all kinds."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bitplan import Budget, Plan, allocate, describe, memory
from bitplan.allocator import uniform
from bitplan.calibration import Sizes, TokenSets
from bitplan.effort import EFFORTS
from bitplan.errors import InputError, PlanError
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.evaluator import ModelEvaluator
from bitplan.pipeline.judge import Judge
from bitplan.pipeline.stages import measure_in
from bitplan.schema import Scheme

SETTINGS = {
    "sizes": Sizes(calibration=40, search=4, held_out=6, length=16),
    "schemes": ["int3", "int4", "int6", "int8s", "bf16"],
    "refine_tokens": 2_000,
}


def budget_of(model) -> Budget:
    found = describe(model)
    return Budget(bytes=int(found.smallest_bytes + 0.3 * (found.bytes - found.smallest_bytes)))


@contextlib.contextmanager
def evaluator_of(model, workdir, told=None) -> Iterator[ModelEvaluator]:
    generator = torch.Generator().manual_seed(1)
    calibration, search, held_out = torch.randint(3, 96, (3, 8, 16), generator=generator)
    tokens = TokenSets(calibration=calibration, search=search, held_out=held_out, source="given")
    workspace = Workspace.open(model, workdir=workdir)
    settings = Settings(**SETTINGS, calibration=tokens, quantizer="rtn")
    table, meter, _ = measure_in(workspace, settings)
    progress = {} if told is None else {"progress": told}
    # The same for both, so that the one can be compared with the other.
    sets = dict.fromkeys(("search", "calibration"), tokens.search)
    judge = Judge(workspace=workspace, meter=meter, tokens=sets, **progress)
    with judge.borrowed():
        yield ModelEvaluator(judge=judge, table=table)


AGREES = {"llama": 0.9, "llama-tied": 0.9, "gpt2": 0.9, "mixtral": 0.7}
"""Correlation at least. Tokens that go to other experts than before are beyond any gradient."""


@pytest.mark.parametrize("name", AGREES)
def test_slopes_and_the_table_foretell_what_is_measured(name, tiny_model, tmp_path):
    with evaluator_of(tiny_model(name, torch.bfloat16), tmp_path) as model:
        everything = range(model.sequences)
        plan = {row.layer.name: Scheme.parse("int4") for row in model.table.rows}
        [before] = model.measure_many([plan], everything)
        loss = {
            (row.layer.name, cost.scheme): cost.loss
            for row in model.table.rows
            for cost in row.costs
        }
        slopes = model.slopes(plan, everything)
        predicted, measured = [], []
        for layer, by_scheme in slopes.items():
            for scheme, slope in by_scheme.items():
                assert slope.shape == (model.sequences,)
                [after] = model.measure_many([plan | {layer: scheme}], everything)
                curvature = loss[layer, scheme] + loss[layer, plan[layer]]
                predicted.append(slope.mean() + curvature)
                measured.append((after - before).mean())
    assert len(predicted) == 4 * len(plan)
    assert np.corrcoef(predicted, measured)[0, 1] > AGREES[name]


def test_slopes_are_kept_and_do_not_depend_on_memory(tiny_model, tmp_path, monkeypatch):
    calls = []

    def told(stage: str, done: int, total: int) -> None:
        calls.append(stage)

    with evaluator_of(tiny_model("llama", torch.bfloat16), tmp_path, told) as model:
        plan = {row.layer.name: Scheme.parse("int4") for row in model.table.rows}
        first = model.slopes(plan, [0, 2])
        assert "operating point" in calls
        calls.clear()
        again = model.slopes(plan, [2])
        assert "operating point" not in calls
        assert all(
            again[layer][scheme][0] == change[1]
            for layer, by_scheme in first.items()
            for scheme, change in by_scheme.items()
        )
        for path in (model.judge.meter.store.folder / "slopes").iterdir():
            path.unlink()
        # One layer at a time.
        monkeypatch.setattr(memory, "SHARE_AT_ONCE", 1e-12)
        apart = model.slopes(plan, [0, 2])
    for layer, by_scheme in first.items():
        for scheme, change in by_scheme.items():
            np.testing.assert_allclose(apart[layer][scheme], change, rtol=1e-5, atol=1e-9)


def test_some_sequences_measure_as_they_do_among_all(tiny_model, tmp_path):
    with evaluator_of(tiny_model("llama", torch.bfloat16), tmp_path) as model:
        plan = {row.layer.name: Scheme.parse("int4") for row in model.table.rows}
        [some] = model.measure_many([plan], [1, 5])
        [every] = model.measure_many([plan], range(8))
    np.testing.assert_allclose(some, every[[1, 5]], rtol=1e-2)


@pytest.mark.parametrize("search", ["auto", "evopress"])
def test_the_users_plan_is_among_what_is_tried(search, tiny_model, tmp_path):
    model, settings = tiny_model("llama", torch.bfloat16), {**SETTINGS, "search": search}
    budget = budget_of(model)
    plain = allocate(model, budget, workdir=tmp_path, **settings)
    [*_, other] = uniform(run_table(model, tmp_path), budget)
    other.save(tmp_path / "mine.json")
    mine = {**settings, "start": [tmp_path / "mine.json", plain]}
    plan = allocate(model, budget, workdir=tmp_path, **mine)
    assert plan.evidence is not None
    names = {one.name for one in (plan.evidence.plan, *plan.evidence.others)}
    assert {"given 1", "given 2"} <= names | {getattr(plan.evidence.uniform, "name", "")}
    assert plain.evidence is not None
    assert plan.evidence.plan.kl <= plain.evidence.plan.kl
    assert plan == allocate(model, budget, workdir=tmp_path / "again", **mine)


def run_table(model, workdir):
    workspace = Workspace.open(model, workdir=workdir)
    return measure_in(workspace, Settings(**SETTINGS))[0]


def test_a_plan_that_cannot_be_begun_with_is_refused_before_measuring(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    small, large = budget_of(model), Budget(bytes=describe(model).bytes - 1)
    plan = allocate(model, large, workdir=tmp_path, **{**SETTINGS, "refine_tokens": 0})
    calls = []
    with pytest.raises(PlanError, match="does not keep to its budget"):
        allocate(
            model,
            small,
            workdir=tmp_path / "new",
            start=plan,
            progress=lambda stage, done, total: calls.append(stage),
            **SETTINGS,
        )
    assert set(calls) == {"load"}
    with pytest.raises(InputError, match=r"nowhere\.json"):
        Settings(start=tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="There is no search 'luck'"):
        Settings(search="luck")
    assert isinstance(Settings(start=plan).starts[0], Plan)


def test_an_effort_says_how_long_the_search_is():
    tokens = TokenSets(
        source="",
        **{name: torch.zeros(3, 8, dtype=torch.int64) for name in ("calibration", "search")},
        held_out=torch.zeros(1, 8, dtype=torch.int64),
    )
    for name, effort in EFFORTS.items():
        assert Settings(effort=name).tokens_to_refine(tokens) == effort.refine_passes * 24
        assert Settings(effort=name, refine_tokens=7).tokens_to_refine(tokens) == 7
        assert Settings(effort=name).renders_by == effort.quantizer
        assert Settings(effort=name, quantizer="rtn").renders_by == "rtn"
    with pytest.raises(InputError, match="no effort 'most'"):
        Settings(effort="most")
