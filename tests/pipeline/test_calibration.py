"""What a table says of its calibration, and how a time limit, a mix and a temperature reach it."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from bitplan import allocate, apply_plan, describe, measure
from bitplan.calibration import Counts, Sizes, Source, tokens_digest
from bitplan.errors import CalibrationError, InputError
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.time_limit import choose_counts, pass_s, rendering_s, sampling_s

SMALL = {"schemes": ["int3", "int8s", "bf16"], "quantizer": "clip"}
SIZES = Sizes(calibration=10, search=2, held_out=4, length=16)


def counts_files(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("counts-*.json"))


def test_a_table_says_what_each_source_gave(tiny_model, tiny_tokenizer, tiny_documents, tmp_path):
    path = tmp_path / "talk.txt"
    path.write_text("\n\n".join(tiny_documents[30:]))
    sources = [Source(tiny_documents[:30], weight=0.7, name="code"), Source(path, weight=0.3)]
    model = tiny_model("llama", torch.bfloat16)
    settings = {"calibration": sources, "tokenizer": tiny_tokenizer, "sizes": SIZES, **SMALL}
    made = measure(model, workdir=tmp_path / "here", **settings).provenance
    assert made.calibration == "code (70%), talk.txt (30%), seed 0"
    assert [(d.name, d.tokens, d.share) for d in made.domains] == [
        ("code", 112, 0.7),
        ("talk.txt", 48, 0.3),
    ]
    assert made.calibration_tokens == 160
    assert made.sizes == {"calibration": 10, "search": 2, "held_out": 4, "length": 16}
    # The same plan is made again elsewhere from the same sources, and from no others.
    budget = (describe(model).smallest_bytes + describe(model).bytes) / 2e9
    plan = allocate(model, budget, workdir=tmp_path / "here", verify=False, **settings)
    assert plan.provenance == made
    there = {"workdir": tmp_path / "there", "tokenizer": tiny_tokenizer}
    other = [dataclasses.replace(sources[0], weight=0.5), sources[1]]
    with pytest.raises(CalibrationError, match="not the tokens that the plan was calibrated on"):
        apply_plan(tiny_model("llama", torch.bfloat16), plan, calibration=other, **there)
    apply_plan(tiny_model("llama", torch.bfloat16), plan, calibration=sources, **there)


def test_a_temperature_is_recorded_and_drawn_again_elsewhere(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    budget = (describe(model).smallest_bytes + describe(model).bytes) / 2e9
    settings = {"sizes": SIZES, "verify": False, "seed": 3, **SMALL}
    plain = allocate(model, budget, workdir=tmp_path / "here", **settings)
    plan = allocate(model, budget, workdir=tmp_path / "here", temperature=0.5, **settings)
    assert plan.provenance.temperature == 0.5
    assert plan.provenance.calibration == "sampled from the model, temperature 0.5, seed 3"
    assert plan.provenance.calibration_digest != plain.provenance.calibration_digest
    [domain] = plan.provenance.domains
    assert domain.digest == plan.provenance.calibration_digest
    apply_plan(tiny_model("llama", torch.bfloat16), plan, workdir=tmp_path / "there")


def test_a_default_length_is_settled_in_the_table(tiny_model, tmp_path, caplog):
    sizes = Sizes(calibration=3, search=1, held_out=1)
    table = measure(tiny_model("gpt2", torch.bfloat16), workdir=tmp_path, sizes=sizes, **SMALL)
    assert table.provenance.sizes["length"] == 64
    assert table.provenance.calibration_tokens == 3 * 64
    assert "reads at most 64 tokens" in caplog.text


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral", "mamba"])
def test_a_time_limit_chooses_once(name, tiny_model, tmp_path):
    sizes = Sizes(search=1, held_out=1, length=8)
    workspace = Workspace.open(tiny_model(name, torch.bfloat16), workdir=tmp_path)
    for limit_s, chosen in ((1e-9, 4), (1e9, 512)):
        settings = Settings(time_limit_s=limit_s, sizes=sizes, **SMALL)
        expected = Counts(calibration=chosen, search=1, held_out=1, length=8)
        assert choose_counts(workspace, settings) == expected
        # The same command takes what is in the folder, however fast the machine is now.
        [path] = [
            path
            for path in workspace.folder.glob("counts-*.json")
            if json.loads(path.read_text())["calibration"] == chosen
        ]
        path.write_text(json.dumps({**json.loads(path.read_text()), "calibration": 16}))
        assert choose_counts(workspace, settings).calibration == 16
        path.write_text("{")
        assert choose_counts(workspace, settings) == expected
    assert len(counts_files(tmp_path)) == 2


@pytest.mark.parametrize(
    ("transform", "chosen"), [("none", 64), ("hadamard", 64), ("awq", 32), ("omniquant", 8)]
)
def test_a_transform_takes_its_share_of_the_time(
    transform, chosen, tiny_model, tmp_path, monkeypatch
):
    for name, seconds in (("pass_s", 1.0), ("rendering_s", 0.0), ("sampling_s", 0.0)):
        monkeypatch.setattr(f"bitplan.pipeline.time_limit.{name}", lambda *_, s=seconds: s)
    sizes = Sizes(search=1, held_out=1, length=8)
    workspace = Workspace.open(tiny_model("llama", torch.bfloat16), workdir=tmp_path)
    settings = Settings(
        time_limit_s=200.0, sizes=sizes, estimator="weight_error", transform=transform, **SMALL
    )
    assert choose_counts(workspace, settings).calibration == chosen


def test_a_time_limit_reaches_table_and_plan(tiny_model, tmp_path, caplog):
    model = tiny_model("llama", torch.bfloat16)
    settings = {"sizes": Sizes(search=2, held_out=2, length=8), "time_limit_s": 1e-9, **SMALL}
    table = measure(model, workdir=tmp_path, **settings)
    assert table.provenance.sizes == {"calibration": 4, "search": 2, "held_out": 2, "length": 8}
    assert table.provenance.calibration_tokens == 32
    assert "The time limit is 0 s" in caplog.text
    again = measure(model, workdir=tmp_path, **settings)
    assert again.to_json() == table.to_json()
    assert len(counts_files(tmp_path)) == 1


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
def test_taking_the_time_leaves_the_model_as_it_is(name, tiny_model, tmp_path):
    model = tiny_model(name, torch.bfloat16).requires_grad_(True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    workspace = Workspace.open(model, workdir=tmp_path)
    assert pass_s(workspace, 8) > 0
    assert sampling_s(model, 2) > 0
    assert rendering_s(model, workspace.legal(["int3", "bf16"]), "gptq") > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(one.requires_grad and one.grad is None for one in model.parameters())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_limit_s": 0}, "The time limit is 0 s"),
        ({"time_limit_s": float("nan")}, "The time limit is nan s"),
        ({"time_limit_s": 60, "sizes": SIZES}, "Leave one of them out"),
        ({"temperature": 0}, "The temperature is 0"),
        ({"calibration": {"missing.txt": 1}}, "no calibration file 'missing.txt'"),
        ({"calibration": [Source(["text"]), Source("gone")]}, "no calibration file 'gone'"),
        ({"calibration": {}}, "no calibration source"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Settings(**settings)


def test_a_setting_that_is_none_is_told_apart_from_those_that_are(tiny_model):
    with pytest.raises(TypeError, match=r"no setting 'solvers'. Closest of \d+: solver, .*Sizes"):
        allocate(tiny_model("llama"), 1.0, solvers="greedy")
    with pytest.raises(TypeError, match="no setting 'sequences'"):
        measure(tiny_model("llama"), sequences=8)


@pytest.mark.parametrize("time_limit_s", [None, 60.0])
@pytest.mark.parametrize(
    ("vocabulary", "documents", "message"),
    [
        (70, None, "The tokenizer has 96 tokens, but the model's vocabulary has 70"),
        (96, [], "The list has no text"),
        (96, ["", " \n"], "The list has no text"),
        (96, torch.zeros((0, 8), dtype=torch.int64), "at least one sequence"),
        (96, torch.full((9, 8), 96), "vocabulary has 96"),
    ],
    ids=["vocabulary", "no documents", "empty documents", "empty batch", "tokens"],
)
def test_bad_tokens_are_named_before_any_forward_pass(
    time_limit_s,
    vocabulary,
    documents,
    message,
    tiny_model,
    tiny_tokenizer,
    tiny_documents,
    tmp_path,
):
    model = tiny_model("llama", torch.bfloat16)
    model.config.vocab_size = vocabulary
    passes: list[nn.Module] = []
    model.register_forward_pre_hook(lambda module, _: passes.append(module))
    with pytest.raises(CalibrationError, match=message):
        measure(
            model,
            workdir=tmp_path,
            calibration=tiny_documents if documents is None else documents,
            tokenizer=tiny_tokenizer,
            sizes=Sizes(search=2, held_out=2, length=8),
            time_limit_s=time_limit_s,
            **SMALL,
        )
    assert not passes


def test_given_tokens_are_what_the_digests_are_over(tiny_model, tmp_path):
    tokens = torch.randint(3, 96, (16, 12), generator=torch.Generator().manual_seed(1))
    model = tiny_model("gpt2", torch.bfloat16)
    made = measure(model, workdir=tmp_path, calibration=tokens, sizes=SIZES, **SMALL).provenance
    assert made.calibration_digest == tokens_digest(tokens[6:])  # the first six judge and search
    assert made.sizes["length"] == 12
    [domain] = made.domains
    assert (domain.documents, domain.tokens) == (16, 120)
