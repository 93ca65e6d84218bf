"""One budget for weights and cache: from measuring to a model that generates within it."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitplan import Budget, Plan, allocate, apply_plan, describe, evaluate, measure, solve
from bitplan.apply import held_bytes
from bitplan.cache import PackedCache
from bitplan.calibration import Sizes
from bitplan.errors import InfeasibleError, InputError, PlanError, SchemeError
from bitplan.export import load, save

MODELS = ["llama", "gpt2", "gemma-window", "mixtral"]
CONTEXT = {"context": 40, "batch": 2}
SETTINGS: dict[str, Any] = {
    "sizes": Sizes(calibration=16, search=4, held_out=6, length=16),
    "schemes": ["int2", "int3", "int4", "int8s", "bf16"],
    "refine_tokens": 600,
    **CONTEXT,
}


def budget_of(model: Any, share: float = 0.4, **context: int) -> Budget:
    """A share of the way from the smallest plan to the whole."""
    found = describe(model, **context)
    return Budget(bytes=int(found.smallest_bytes + share * (found.bytes - found.smallest_bytes)))


def tokens_for(length: int) -> Tensor:
    return torch.randint(3, 96, (2, length), generator=torch.Generator().manual_seed(1))


def generated(model: Any) -> Any:
    tokens = tokens_for(8)
    mask = torch.ones_like(tokens)
    return model.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
    )


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_cache_share_a_budget_to_the_byte(name, tiny_model, tmp_path):
    model: Any = tiny_model(name, torch.bfloat16)
    budget = budget_of(model, **CONTEXT)
    plan = allocate(model, budget, workdir=tmp_path, **SETTINGS)
    assert plan.bytes <= budget.total_bytes
    assert plan.weight_bytes + plan.cache_bytes == plan.bytes
    caches = [choice for choice in plan.choices if choice.layer.is_cache]
    assert len(caches) == 4
    assert plan.cache_bytes == sum(choice.bytes for choice in caches) > 0
    assert (plan.provenance.context, plan.provenance.batch) == (40, 2)
    plan.save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")

    packed: Any = apply_plan(model, plan, workdir=tmp_path)
    assert held_bytes(packed) == plan.weight_bytes
    cache = packed.new_cache()
    packed(input_ids=tokens_for(40), past_key_values=cache)
    assert cache.nbytes == plan.cache_bytes
    found = generated(packed)
    assert isinstance(found.past_key_values, PackedCache)

    save(packed, tmp_path / "model", plan)
    loaded = load(tmp_path / "model")
    assert held_bytes(loaded) == plan.weight_bytes
    again = generated(loaded)
    assert isinstance(again.past_key_values, PackedCache)
    assert torch.equal(again.sequences, found.sequences)


@pytest.mark.parametrize("name", MODELS)
def test_the_kl_that_was_measured_is_that_of_the_applied_model(name, tiny_model, tmp_path):
    model = tiny_model(name, torch.bfloat16)
    pins = {"*": "bf16", "*.keys": "int2", "*.values": "int4"}
    whole = budget_of(model, 1.0, **CONTEXT)
    settings = {**SETTINGS, "refine_tokens": 0, "pins": pins}
    plan = allocate(model, whole, workdir=tmp_path, **settings)
    evidence = plan.evidence
    assert evidence is not None
    assert evidence.plan.kl > 0
    tokens = _held_out(tmp_path)
    packed: Any = apply_plan(model, plan, workdir=tmp_path)
    report = evaluate(packed, reference=tiny_model(name, torch.bfloat16), text=tokens)
    # Applied experts run one by one, in bfloat16: their sums round otherwise.
    noise = 0.002 if name == "mixtral" else 0
    assert report.model.kl == pytest.approx(evidence.plan.kl, abs=noise)
    # The weights are as they were: without the cache's rounding there is nothing left.
    del packed.new_cache, packed.generate
    rest = evaluate(packed, reference=tiny_model(name, torch.bfloat16), text=tokens)
    assert rest.model.kl == pytest.approx(0, abs=noise + 1e-9)


def _held_out(workdir: Path) -> Tensor:
    from safetensors.torch import load_file

    [path] = workdir.glob("*/sampled-*.safetensors")
    return load_file(path)["tokens"][: SETTINGS["sizes"].held_out]


def test_without_a_context_nothing_changes(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    settings = {**SETTINGS, "context": 0, "batch": 1}
    table = measure(model, workdir=tmp_path, **settings)
    assert not any(row.layer.is_cache for row in table.rows)
    with_cache = measure(model, workdir=tmp_path, **SETTINGS)
    assert with_cache.rows[: len(table.rows)] == table.rows
    assert [row.layer.name for row in with_cache.rows[len(table.rows) :]] == [
        f"model.layers.{block}.self_attn.{kind}" for block in (0, 1) for kind in ("keys", "values")
    ]
    plan = allocate(model, budget_of(model), workdir=tmp_path, **settings)
    assert plan.cache_bytes == 0
    packed: Any = apply_plan(model, plan, workdir=tmp_path)
    assert not hasattr(packed, "new_cache")
    assert not isinstance(generated(packed).past_key_values, PackedCache)


def test_a_larger_context_takes_bits_from_the_weights(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    budget = budget_of(model, 0.5, context=20)
    plans = [
        solve(measure(model, workdir=tmp_path, **{**SETTINGS, "context": n, "batch": 1}), budget)
        for n in (10, 20, 40)
    ]
    weights = [plan.weight_bytes for plan in plans]
    assert weights[0] > weights[1] > weights[2]
    assert all(plan.bytes <= budget.total_bytes for plan in plans)


def test_the_same_call_measures_nothing_again(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    first = measure(model, workdir=tmp_path, **SETTINGS)
    [folder] = tmp_path.glob("*/caches-*")
    times = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("weights-*/*")}
    stages: list[tuple[str, int]] = []
    again = measure(
        model,
        workdir=tmp_path,
        progress=lambda stage, done, _: stages.append((stage, done)),
        **{**SETTINGS, "context": 20},
    )
    assert {path: path.stat().st_mtime_ns for path in times} == times
    caches = [row for row in first.rows if row.layer.is_cache]
    again_caches = [row for row in again.rows if row.layer.is_cache]
    for one, two in zip(caches, again_caches, strict=True):
        assert [c.loss for c in one.costs] == [c.loss for c in two.costs]
        assert [c.bytes for c in one.costs] == [2 * c.bytes for c in two.costs]


def test_a_model_without_such_a_cache_says_so_and_goes_on(tiny_model, tmp_path, caplog):
    model = tiny_model("mamba", torch.bfloat16)
    with caplog.at_level(logging.WARNING, logger="bitplan"):
        table = measure(model, workdir=tmp_path, **SETTINGS)
    assert not any(row.layer.is_cache for row in table.rows)
    assert "there is no cache to plan. The budget is for the weights alone." in caplog.text


def test_the_whole_with_its_cache_is_kept_where_it_fits(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    whole = describe(model, **CONTEXT).bytes
    settings = {**SETTINGS, "verify": False}
    kept = allocate(model, Budget(bytes=whole), workdir=tmp_path, **settings)
    assert kept.solver == "keep"
    assert kept.bytes == whole
    less = allocate(model, Budget(bytes=whole - 1), workdir=tmp_path, **settings)
    assert less.solver != "keep"
    assert less.bytes < whole


def test_a_budget_that_the_cache_does_not_fit_into_is_refused_at_once(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    smallest = describe(model).smallest_bytes
    settings = {**SETTINGS, "schemes": None}
    with pytest.raises(InfeasibleError) as caught:
        allocate(model, Budget(bytes=smallest), workdir=tmp_path, **settings)
    assert caught.value.smallest_bytes == describe(model, **CONTEXT).smallest_bytes
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"context": -1}, InputError, "cache is of 2 sequences of -1 tokens"),
        ({"batch": 0}, InputError, "cache is of 0 sequences of 40 tokens"),
        ({"context": 65}, InputError, "reads at most 64"),
        ({"cache_schemes": []}, InputError, "list of schemes is empty"),
        ({"cache_schemes": "int4"}, InputError, "Give a list of names"),
        ({"cache_schemes": ["int9"]}, SchemeError, "'int9' is not a scheme"),
        ({"cache_schemes": ["fp32"]}, SchemeError, "is cached in bfloat16, and of the cache's"),
    ],
)
def test_what_cannot_be_is_refused(settings, error, message, tiny_model, tmp_path):
    with pytest.raises(error, match=message):
        measure(tiny_model("llama", torch.bfloat16), workdir=tmp_path, **{**SETTINGS, **settings})


def test_the_caches_menu_is_the_callers(tiny_model, tmp_path):
    settings = {**SETTINGS, "cache_schemes": ["int3", "int5s"]}
    table = measure(tiny_model("llama", torch.bfloat16), workdir=tmp_path, **settings)
    menus = {tuple(str(c.scheme) for c in r.costs) for r in table.rows if r.layer.is_cache}
    assert menus == {("int3", "int5s")}


def test_a_plan_of_another_cache_is_refused(tiny_model, tmp_path):
    plan = allocate(
        tiny_model("llama", torch.bfloat16),
        budget_of(tiny_model("llama", torch.bfloat16), **CONTEXT),
        workdir=tmp_path,
        **{**SETTINGS, "verify": False},
    )
    made = plan.provenance.model_copy(update={"context": 20})
    with pytest.raises(PlanError, match=r"has other shapes than the model: .*keys"):
        apply_plan(
            tiny_model("llama", torch.bfloat16),
            plan.model_copy(update={"provenance": made}),
            workdir=tmp_path,
        )
