"""Allocate: the same bytes every time, whatever went wrong before; and what it refuses at once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitplan import Budget, Plan, Scheme, allocate, describe, measure, solve
from bitplan.allocator import AverageBits, Constraints, Problem, ReadBytes
from bitplan.allocator.search import INTERRUPTED
from bitplan.calibration import Sizes, TokenSets
from bitplan.errors import (
    BitplanError,
    BudgetError,
    CalibrationError,
    ConflictError,
    InfeasibleError,
    InputError,
    ModelError,
    OutputError,
    SchemeError,
)
from bitplan.evaluate import compare, make_reference
from bitplan.models import find_layers, weight_of
from bitplan.pipeline import Workspace, run

SETTINGS = {
    "sizes": Sizes(calibration=40, search=4, held_out=6, length=16),
    "schemes": ["int2", "int3", "int4", "int8s", "bf16"],
    "refine_tokens": 2_000,
}


def budget_of(model: nn.Module, share: float = 0.3) -> Budget:
    """A share of the way from the smallest plan to the whole model."""
    found = describe(model)
    return Budget(bytes=int(found.smallest_bytes + share * (found.bytes - found.smallest_bytes)))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(model: nn.Module, before: dict[str, Tensor]) -> bool:
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[n], before[n]) for n in now)


class Stop:
    """A progress that is interrupted at one of its calls, counted from 0."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.calls = at, []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.calls.append(stage)
        if len(self.calls) - 1 == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
def test_the_same_call_gives_the_same_bytes(name, tiny_model, tmp_path):
    model = tiny_model(name, torch.bfloat16)
    budget = budget_of(model)
    plans = [
        allocate(model, budget, workdir=tmp_path / folder, **SETTINGS) for folder in ("a", "a", "b")
    ]
    texts = {plan.to_json() for plan in plans}
    again = allocate(tiny_model(name, torch.bfloat16), budget, workdir=tmp_path / "c", **SETTINGS)
    assert texts == {again.to_json()}
    assert again.bytes <= budget.total_bytes
    assert again.evidence is not None
    assert again.evidence.uniform is not None
    assert again.evidence.plan.kl <= again.evidence.uniform.kl
    assert again.evidence.plan.kl <= min(other.kl for other in again.evidence.others)


def moments_of(calls: list[str]) -> list[int]:
    """Of each stage the first, the second, a middle and the last call."""
    moments = set()
    for stage in set(calls):
        at = [index for index, name in enumerate(calls) if name == stage]
        moments |= {at[0], at[min(1, len(at) - 1)], at[len(at) // 2], at[-1]}
    return sorted(moments)


def test_an_interrupt_in_any_stage_changes_nothing(tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    before, budget = weights_of(model), budget_of(model)
    whole = Stop()
    expected = allocate(model, budget, workdir=tmp_path / "whole", progress=whole, **SETTINGS)
    assert set(whole.calls) == {
        *("load", "sample", "statistics", "measure", "reference", "refine", "evaluate"),
        "operating point",
    }
    assert same_weights(model, before)
    for moment in moments_of(whole.calls):
        workdir = tmp_path / str(moment)
        try:
            early = allocate(model, budget, workdir=workdir, progress=Stop(moment), **SETTINGS)
        except KeyboardInterrupt:
            pass
        else:
            # An interrupt of the search gives the best plan that it has found.
            assert whole.calls[moment] in ("refine", "evaluate", "operating point")
            assert INTERRUPTED in early.status
            assert early.evidence is not None
        assert same_weights(model, before), whole.calls[moment]
        assert not model.training
        again = Stop()
        plan = allocate(model, budget, workdir=workdir, progress=again, **SETTINGS)
        assert plan.to_json() == expected.to_json(), whole.calls[moment]
        assert same_weights(model, before)
        assert len(again.calls) <= len(whole.calls)


def test_interrupts_one_after_another_lead_to_the_same_plan(tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    before, budget = weights_of(model), budget_of(model)
    expected = allocate(model, budget, workdir=tmp_path / "whole", **SETTINGS)
    for at in (0, 3, 60, 30, 2, 100, 25, 40):
        stop = Stop(at)
        try:
            allocate(model, budget, workdir=tmp_path / "stopped", progress=stop, **SETTINGS)
        except KeyboardInterrupt:
            assert len(stop.calls) == at + 1
        assert same_weights(model, before)
    plan = allocate(model, budget, workdir=tmp_path / "stopped", **SETTINGS)
    assert plan.to_json() == expected.to_json()


def test_an_error_while_weights_are_swapped_gives_them_back(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    before = weights_of(model)

    def fail(stage: str, done: int, total: int) -> None:
        if stage == "evaluate":
            swapped.append(not same_weights(model, before))
            if len(swapped) == 3:
                raise ZeroDivisionError

    swapped: list[bool] = []
    with pytest.raises(ZeroDivisionError):
        allocate(model, budget_of(model), workdir=tmp_path, progress=fail, **SETTINGS)
    assert any(swapped)
    assert same_weights(model, before)


def test_a_module_is_given_back_as_it_came_save_for_eval_mode(tiny_model, tmp_path):
    model = tiny_model("gpt2").train().requires_grad_(True)
    before = weights_of(model)
    allocate(model, budget_of(model), workdir=tmp_path, **SETTINGS)
    assert same_weights(model, before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_models_of_one_digest_share_no_work(tiny_model, tmp_path):
    """Rounded to bfloat16 they are one model; what each is given back must still be its own."""
    model = tiny_model("llama-tied")
    rounded = tiny_model("llama-tied", torch.bfloat16).float()
    other_norm = tiny_model("llama-tied", torch.bfloat16)
    with torch.no_grad():
        other_norm.model.norm.weight.mul_(2)
    narrow = tiny_model("llama-tied", torch.bfloat16)
    models = [rounded, model, other_norm, narrow]
    befores = [weights_of(one) for one in models]
    tables = [measure(one, workdir=tmp_path / "shared", **SETTINGS) for one in models]
    assert len({table.provenance.model_digest for table in tables}) == 1
    for one, before, table in zip(models, befores, tables, strict=True):
        plan = allocate(one, budget_of(one), workdir=tmp_path / "shared", **SETTINGS)
        assert same_weights(one, before)
        fresh = run(one, budget_of(one), workdir=tmp_path / "fresh" / str(id(one)), **SETTINGS)
        assert table == fresh.table
        assert plan == fresh.plan


def test_the_evidence_is_what_the_plan_measures(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    sets = TokenSets(
        **{
            name: torch.randint(3, 96, (rows, 16), generator=generator)
            for name, rows in {"calibration": 40, "search": 4, "held_out": 6}.items()
        },
        source="given",
    )
    settings = {**SETTINGS, "calibration": sets}
    outcome = run(model, budget_of(model), workdir=tmp_path, **settings)
    plan, evidence = outcome.plan, outcome.plan.evidence
    assert evidence is not None
    reference = make_reference(model, sets.held_out)
    store = Workspace.open(model, workdir=tmp_path).store(
        plan.provenance.calibration_digest, plan.provenance.quantizer
    )
    for layer in find_layers(model):
        weight = weight_of(model, layer)
        packed = store.get(layer, plan.schemes[layer.name])
        assert packed is not None
        weight.copy_(packed.decode(weight.dtype))
    found = compare(model, reference)
    assert found.mean == evidence.plan.kl
    assert found.perplexity == evidence.plan.perplexity
    assert found.standard_error == evidence.plan.standard_error
    assert reference.perplexity == evidence.reference_perplexity
    assert evidence.tokens == 6 * 16
    assert plan.bytes == evidence.plan.bytes


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
@pytest.mark.parametrize("share", [0.02, 0.15, 0.6])
@pytest.mark.parametrize("quantizer", ["gptq", "rtn"])
def test_no_plan_loses_to_a_uniform_one(name, share, quantizer, tiny_model, tmp_path):
    model = tiny_model(name, torch.bfloat16)
    settings = {**SETTINGS, "quantizer": quantizer, "schemes": None}
    budget = budget_of(model, share)
    plan = allocate(model, budget, workdir=tmp_path, **settings)
    assert plan.evidence is not None
    assert plan.evidence.uniform is not None
    assert plan.evidence.plan.kl <= plan.evidence.uniform.kl
    assert plan.bytes <= budget.total_bytes
    assert plan.evidence.uniform.bytes <= budget.total_bytes


def test_unverified_plans_are_those_of_the_table(tiny_model, tmp_path):
    model, seen = tiny_model("llama", torch.bfloat16), Stop()
    settings = {**SETTINGS, "verify": False}
    outcome = run(model, budget_of(model), workdir=tmp_path, progress=seen, **settings)
    assert outcome.plan.evidence is None
    assert outcome.plan == solve(outcome.table, budget_of(model))
    assert not {"reference", "evaluate", "refine"} & set(seen.calls)


def test_refinement_can_be_turned_off(tiny_model, tmp_path):
    model, seen = tiny_model("llama", torch.bfloat16), Stop()
    settings = {**SETTINGS, "refine_tokens": 0}
    plan = allocate(model, budget_of(model), workdir=tmp_path, progress=seen, **settings)
    assert "refine" not in seen.calls
    assert plan.evidence is not None


def test_another_budget_needs_no_new_measuring(tiny_model, tmp_path):
    model, seen = tiny_model("mixtral", torch.bfloat16), Stop()
    settings = {**SETTINGS, "verify": False}
    allocate(model, budget_of(model), workdir=tmp_path, **settings)
    allocate(model, budget_of(model, 0.5), workdir=tmp_path, progress=seen, **settings)
    assert "statistics" not in seen.calls
    assert "sample" not in seen.calls


def no_forward(model: nn.Module) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the model was run")

    model.register_forward_pre_hook(refuse)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_budget_that_nothing_fits_is_refused_before_any_work(tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    no_forward(model)
    table_bytes = describe(model).rest_bytes
    settings = {**SETTINGS, "schemes": ["int4", "int8s"]}
    for layer in find_layers(model):
        rows = layer.shape[0]
        table_bytes += rows * (-(-layer.shape[1] // 8) * 4 + 4)
    with pytest.raises(InfeasibleError, match=f"the smallest plan needs {table_bytes:,}") as caught:
        allocate(model, Budget(bytes=table_bytes - 1), workdir=tmp_path, **settings)
    assert caught.value.smallest_bytes == table_bytes
    assert not files_in(tmp_path)
    with pytest.raises(AssertionError, match="the model was run"):
        allocate(model, Budget(bytes=table_bytes), workdir=tmp_path, **settings)


def test_the_smallest_budget_has_a_plan(tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    with pytest.raises(InfeasibleError) as caught:
        allocate(model, Budget(bytes=1), workdir=tmp_path, **SETTINGS)
    smallest = caught.value.smallest_bytes
    plan = allocate(model, Budget(bytes=smallest), workdir=tmp_path, **SETTINGS)
    assert plan.bytes == smallest
    assert {str(scheme) for scheme in plan.schemes.values()} == {"int2"}


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), -float("inf"), "4", None])
def test_a_budget_that_is_no_number_above_zero_is_refused(budget, tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    no_forward(model)
    with pytest.raises(BudgetError, match=r"needs either|must be a number above zero"):
        allocate(model, budget, workdir=tmp_path, **SETTINGS)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("extra", [0, 1, 10**12])
def test_a_budget_as_large_as_the_model_keeps_everything_and_says_so(extra, tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    no_forward(model)
    size = describe(model).bytes
    plan = allocate(model, Budget(bytes=size + extra), workdir=tmp_path, **SETTINGS)
    assert plan.bytes == size
    assert plan.predicted_kl == plan.lower_bound == plan.gap == 0
    assert plan.status == "The budget holds the whole model: every layer is kept as it is."
    assert {str(scheme) for scheme in plan.schemes.values()} == {"bf16"}
    assert not files_in(tmp_path)
    assert Plan.from_json(plan.to_json()) == plan


def test_a_menu_counts_however_large_the_budget(tiny_model, tmp_path):
    model = tiny_model("llama-tied", torch.bfloat16)
    settings = {**SETTINGS, "schemes": ["int3", "int4"]}
    plan = allocate(model, 1.0, workdir=tmp_path, **settings)
    assert {str(scheme) for scheme in plan.schemes.values()} <= {"int3", "int4"}
    assert plan.evidence is not None


def test_pins_and_fused_groups_hold_in_the_plan_that_ships(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    pins = {"*.v_proj": "int8s", "lm_head": ["int3", "int4"], "model.layers.0.mlp.up_proj": "bf16"}
    settings = {**SETTINGS, "pins": pins, "fuse": True}
    # Fused layers take what all of them may.
    settings["pins"] = {"lm_head": ["int3", "int4"], "*.0.*.down_proj": "int8s"}
    for share in (0.1, 0.3, 2.0):
        plan = allocate(model, budget_of(model, share), workdir=tmp_path, **settings)
        schemes = {name: str(scheme) for name, scheme in plan.schemes.items()}
        assert schemes["lm_head"] in {"int3", "int4"}
        assert schemes["model.layers.0.mlp.down_proj"] == "int8s"
        for block in ("model.layers.0", "model.layers.1"):
            assert len({schemes[f"{block}.self_attn.{n}_proj"] for n in "qkv"}) == 1
            assert len({schemes[f"{block}.mlp.{n}_proj"] for n in ("gate", "up")}) == 1
        assert plan.bytes <= plan.budget_bytes
    settings = {**SETTINGS, "pins": pins}
    plan = allocate(model, budget_of(model, 0.5), workdir=tmp_path, **settings)
    assert str(plan.schemes["model.layers.0.mlp.up_proj"]) == "bf16"
    assert str(plan.schemes["model.layers.1.self_attn.v_proj"]) == "int8s"


def test_constraints_hold_in_the_plan_that_ships_and_in_all_that_was_tried(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    limits = (AverageBits(most=5.5), ReadBytes(most=25_000))
    given = Constraints(floors={"*.o_proj": 4}, ties=["*.up_proj"], most_schemes=3, limits=limits)
    settings = {**SETTINGS, "constraints": given, "pins": {"lm_head": ["int4", "int8s"]}}
    outcome = run(model, None, workdir=tmp_path, **settings)
    assert outcome.plan.evidence is not None
    assert outcome.plan.evidence.tokens > 0
    given = Constraints.of(given, pins=settings["pins"])
    problem = Problem.of(outcome.table, outcome.plan.budget_bytes, constraints=given)
    choice = problem.choice_of(outcome.plan.schemes)
    assert choice is not None
    assert problem.fits(choice)
    assert all(one.of(choice) <= one.most for one in problem.limits)
    best = solve(outcome.table, constraints=given)
    assert best.lower_bound <= outcome.plan.predicted_kl


def test_constraints_that_conflict_are_refused_before_any_work(tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    no_forward(model)
    given = Constraints(floors={"*": 4}, limits=(AverageBits(most=3),))
    message = r"at most 3 bits per weight on average and the floor '\*' = 4 together\. Nearest"
    with pytest.raises(ConflictError, match=message):
        allocate(model, workdir=tmp_path, constraints=given, **SETTINGS)
    with pytest.raises(InputError, match="is pinned twice"):
        allocate(
            model, 1.0, constraints=Constraints(pins={"*": "int4"}), pins={"*": "int8s"}, **SETTINGS
        )
    assert not files_in(tmp_path)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"estimator": "hessian"}, InputError, r"no estimator 'hessian'.*gradient_covariance"),
        ({"quantizer": "awq"}, InputError, r"no quantizer 'awq'.*gptq"),
        ({"solver": "gurobi"}, InputError, r"no solver 'gurobi'.*cp_sat"),
        ({"schemes": ["int4", "int9"]}, SchemeError, "'int9' is not a scheme"),
        ({"schemes": ["int4g48"]}, SchemeError, "groups of 48"),
        ({"schemes": []}, InputError, "list of schemes is empty"),
        ({"schemes": "int4"}, InputError, "Give a list"),
        ({"schemes": ["fp32"]}, SchemeError, r"stored in bfloat16, .* fp32 none is smaller"),
        ({"pins": {"nothing.*": "int4"}}, InputError, "matches no layer"),
        ({"pins": {"lm_head": "int9"}}, SchemeError, "'int9' is not a scheme"),
        ({"pins": {"lm_head": "int5"}}, SchemeError, "which the cost table does not have"),
        ({"refine_tokens": -1}, InputError, "refine_tokens is -1"),
        ({"calibration": "missing.txt"}, CalibrationError, "no calibration file 'missing.txt'"),
        ({"dtype": "int8"}, ModelError, "'int8' is not a dtype"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_before_any_work(
    settings, error, message, tiny_model, tiny_folder, tmp_path
):
    model = tiny_model("llama", torch.bfloat16)
    no_forward(model)
    source = tiny_folder("llama") if "dtype" in settings else model
    with pytest.raises(error, match=message):
        allocate(source, budget_of(model), workdir=tmp_path, **{**SETTINGS, **settings})
    assert not files_in(tmp_path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj", "model.norm"])
def test_a_weight_that_is_not_finite_is_named(value, name, tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    model.get_submodule(name).weight.data.flatten()[7] = value
    with pytest.raises(ModelError, match=rf"{name}.* holds 1 of .* NaN or infinite"):
        allocate(model, 1e-5, workdir=tmp_path, **SETTINGS)


def test_a_model_with_nothing_to_quantize_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no layer that bitplan can quantize"):
        allocate(nn.Sequential(nn.LayerNorm(4)), 1e-5, workdir=tmp_path, **SETTINGS)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_model_that_predicts_no_next_token_is_calibrated_on_what_it_is_given(
    name, tiny_model, tmp_path
):
    model = tiny_model(name, torch.bfloat16)
    settings = {**SETTINGS, "calibration": None}
    with pytest.raises(BitplanError, match="predicts no next token, so no text can be sampled"):
        allocate(model, budget_of(model), workdir=tmp_path, **settings)
    settings["calibration"] = torch.randint(
        3, 90, (40, 16), generator=torch.Generator().manual_seed(0)
    )
    plan = allocate(model, budget_of(model), workdir=tmp_path, **settings)
    assert plan.evidence
    assert plan.evidence.reference_perplexity is plan.evidence.plan.perplexity is None
    assert plan.evidence.uniform is None or plan.evidence.plan.kl <= plan.evidence.uniform.kl


def test_a_work_folder_that_cannot_be_written_is_refused_at_once(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    no_forward(model)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        allocate(model, budget_of(model), workdir=tmp_path / "file", **SETTINGS)


def test_a_model_that_breaks_under_every_plan_is_refused(tiny_model, tmp_path):
    model = tiny_model("llama", torch.float16)
    broken: list[bool] = []

    def overflow(_: nn.Module, __: tuple, output: Tensor) -> Tensor:
        return output + torch.inf if broken else output

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "evaluate":
            broken.append(True)

    model.lm_head.register_forward_hook(overflow)
    settings = {**SETTINGS, "schemes": ["int2", "fp16"]}
    with pytest.raises(ModelError, match="outputs are not finite"):
        allocate(model, budget_of(model), workdir=tmp_path, progress=stop, **settings)


def damage_all(folder: Path, suffix: str, how: Callable[[bytes], bytes]) -> int:
    paths = [path for path in files_in(folder) if path.name.endswith(suffix)]
    for path in paths:
        path.write_bytes(how(path.read_bytes()))
    return len(paths)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("how", [lambda data: data[:-2], lambda _: b""], ids=["cut", "emptied"])
def test_damaged_work_is_done_again(suffix, how, tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    before, budget = weights_of(model), budget_of(model)
    expected = allocate(model, budget, workdir=tmp_path, **SETTINGS)
    assert damage_all(tmp_path, suffix, how) > 10
    plan = allocate(model, budget, workdir=tmp_path, **SETTINGS)
    assert plan.to_json() == expected.to_json()
    assert same_weights(model, before)


def test_the_table_is_the_same_whether_measured_or_allocated(tiny_model, tmp_path):
    model = tiny_model("gpt2", torch.bfloat16)
    table = measure(model, workdir=tmp_path, **SETTINGS)
    outcome = run(model, budget_of(model), workdir=tmp_path, **SETTINGS)
    assert table.to_json() == outcome.table.to_json()
    assert table.provenance.sizes == {"calibration": 40, "search": 4, "held_out": 6, "length": 16}
    assert [row.layer for row in table.rows] == list(find_layers(model))
    assert {str(Scheme.parse(c.scheme)) for row in table.rows for c in row.costs} == {
        *SETTINGS["schemes"]
    }
