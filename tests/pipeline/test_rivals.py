"""Plans of one simple method: had without a pass through the model, judged beside the result."""

import pytest
import torch

from bitplan import Budget, allocate, describe, solve
from bitplan.allocator import Constraints, Problem, ends_high, uniform
from bitplan.calibration import Sizes
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.rivals import best_rival, free_estimators, rivals
from bitplan.pipeline.stages import measure_in
from bitplan.progress import quiet

SETTINGS = {
    "sizes": Sizes(calibration=8, search=8, held_out=6, length=16),
    "schemes": ["int2", "int3", "int4", "int6", "int8s"],
}


def budget_of(model, share: float = 0.35) -> Budget:
    found = describe(model)
    return Budget(bytes=int(found.smallest_bytes + share * (found.bytes - found.smallest_bytes)))


def measured(model, workdir, **more):
    settings = Settings(**(SETTINGS | more))
    workspace = Workspace.open(model, workdir=workdir)
    return (workspace, settings, *measure_in(workspace, settings))


FREE = {
    ("gptq", "gradient_covariance"): ["weight_error"],
    ("gptq", "fisher_diagonal"): ["gradient_covariance", "weight_error"],
    ("gptq", "weight_error"): ["gradient_covariance"],
    ("rtn", "gradient_covariance"): ["weight_error"],
    ("rtn", "weight_error"): [],
}


@pytest.mark.parametrize(("quantizer", "estimator"), FREE, ids="-".join)
def test_they_take_no_pass_and_keep_to_everything(quantizer, estimator, tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    constraints = Constraints(pins={"*o_proj": "int4"})
    workspace, settings, table, meter, tokens = measured(
        model, tmp_path, quantizer=quantizer, estimator=estimator, constraints=constraints
    )
    assert free_estimators(meter) == FREE[quantizer, estimator]
    budget = budget_of(model)
    solved = solve(table, budget, constraints=constraints)
    passes = []
    with torch.no_grad():
        hook = model.register_forward_pre_hook(lambda *_: passes.append(1))
        found = rivals(workspace, table, solved, meter, tokens, settings, quiet)
        hook.remove()
    assert not passes
    problem = Problem.of(table, budget.total_bytes, constraints=constraints)
    for plan in found:
        choice = problem.choice_of(plan.schemes)
        assert choice is not None
        assert problem.fits(choice)
        assert plan.constraints == solved.constraints
        assert plan.predicted_kl >= solved.predicted_kl - 1e-12
    names = [plan.solver for plan in found]
    assert set(names) <= {"ends_high", *(f"by {name}" for name in FREE[quantizer, estimator])}
    others = [solved, *uniform(table, budget, constraints=constraints)]
    every = [tuple(plan.schemes.items()) for plan in (*others[:1], *found)]
    assert len(set(every)) == len(every)


def test_the_weight_errors_plan_is_that_of_a_table_of_weight_errors(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    workspace, settings, table, meter, tokens = measured(model, tmp_path / "one")
    solved = solve(table, budget_of(model))
    found = rivals(workspace, table, solved, meter, tokens, settings, quiet)
    [plan] = [plan for plan in found if plan.solver == "by weight_error"]
    _, _, by_weight, _, _ = measured(model, tmp_path / "other", estimator="weight_error")
    assert plan.schemes == solve(by_weight, budget_of(model)).schemes
    assert plan.provenance == table.provenance


@pytest.mark.parametrize("refine_tokens", [0, 2_000], ids=["solved", "refined"])
def test_the_best_of_them_is_judged_on_held_out_tokens(refine_tokens, tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    settings = SETTINGS | {"refine_tokens": refine_tokens}
    plan = allocate(model, budget_of(model), workdir=tmp_path, **settings)
    evidence = plan.evidence
    assert evidence is not None
    judged = [evidence.plan, *evidence.others] + ([evidence.uniform] if evidence.uniform else [])
    several = [one for one in judged if one.name == "ends_high" or one.name.startswith("by ")]
    assert len(several) == 1
    assert evidence.plan.kl == min(one.kl for one in judged)


def test_the_cache_stays_as_it_was_solved(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    workspace, settings, table, meter, tokens = measured(model, tmp_path, context=64)
    budget = budget_of(model)
    solved = solve(table, budget)
    found = rivals(workspace, table, solved, meter, tokens, settings, quiet)
    [plan] = [plan for plan in found if plan.solver == "by weight_error"]
    caches = [row.layer.name for row in table.rows if row.layer.is_cache]
    assert caches
    assert all(plan.schemes[name] == solved.schemes[name] for name in caches)
    assert plan.bytes <= budget.total_bytes


def test_without_a_search_the_table_ranks_them(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    _, _, table, _, _ = measured(model, tmp_path)
    several = uniform(table, budget_of(model))[:2]
    ends = ends_high(table, budget_of(model))
    assert best_rival([], None) is None
    assert ends is None or best_rival([ends], None) == ends
    assert best_rival(several, None) == min(several, key=lambda plan: plan.predicted_kl)
