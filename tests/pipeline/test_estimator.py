"""What `auto` comes to in a table: the same as by its name, the same again, and with a reason."""

import json
import logging
import shutil
import signal
from collections import namedtuple

import pytest
import torch

from bitplan import allocate, describe, measure, which_estimator
from bitplan.calibration import Sizes
from bitplan.errors import CalibrationError, InputError
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.estimator import settle_estimator

SMALL = {"schemes": ["int3", "int8s", "bf16"]}
SIZES = {"sizes": Sizes(calibration=4, search=2, held_out=2, length=16)}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free_disk(monkeypatch):
    """Sets what the disk says is free."""

    def say(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free, 0, free))

    return say


@pytest.mark.parametrize("name", ["llama-tied", "mixtral", "bert"])
@pytest.mark.parametrize("quantizer", ["gptq", "rtn"])
def test_auto_is_the_gradient_covariance_byte_for_byte(name, quantizer, tiny_model, tmp_path):
    model = tiny_model(name, torch.bfloat16)
    settings = {**SMALL, **SIZES, "quantizer": quantizer}
    if name == "bert":
        settings["calibration"] = {"input_ids": torch.arange(8 * 16).reshape(8, 16) % 90 + 3}
    auto = measure(model, workdir=tmp_path / "auto", **settings)
    named = measure(model, workdir=tmp_path / "named", estimator="gradient_covariance", **settings)
    assert auto.to_json() == named.to_json()
    assert auto.provenance.estimator == "gradient_covariance"
    # Work under the name and under auto is one.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "named").rglob("*.safetensors")}
    measure(model, workdir=tmp_path / "named", estimator="auto", **settings)
    files = (tmp_path / "named").rglob("*.safetensors")
    assert {path: path.stat().st_mtime_ns for path in files} == before


@pytest.mark.parametrize(("share", "solver"), [(0.3, "dynamic_programming"), (1.0, "keep")])
def test_plans_hold_the_name_that_auto_stands_for(share, solver, tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    found = describe(model)
    budget = (found.smallest_bytes + share * (found.bytes - found.smallest_bytes)) / 1e9
    plan = allocate(model, budget, workdir=tmp_path, verify=False, **SMALL, **SIZES)
    assert plan.solver == solver
    assert plan.provenance.estimator == "gradient_covariance"


def test_an_auto_without_room_reads_the_weights_alone(tiny_model, tmp_path, free_disk):
    model = tiny_model("mixtral", torch.bfloat16)
    settings = {**SMALL, **SIZES, "quantizer": "rtn"}
    free_disk(1000)
    table = measure(model, workdir=tmp_path, **settings)
    assert table.provenance.estimator == "weight_error"
    assert not list(tmp_path.rglob("statistics-*"))  # no pass was made
    named = measure(model, workdir=tmp_path / "named", estimator="weight_error", **settings)
    assert table.to_json() == named.to_json()


def test_what_was_chosen_first_is_gone_on_with(tiny_model, tmp_path, free_disk):
    model = tiny_model("llama", torch.bfloat16)
    settings = {**SMALL, **SIZES, "quantizer": "rtn"}
    asked = {"workdir": tmp_path, **settings}
    free_disk(10**9)
    assert which_estimator(model, **asked)[0] == "gradient_covariance"
    assert not list(tmp_path.rglob("estimator-*"))  # to ask settles nothing
    first = measure(model, **asked)
    free_disk(1000)  # the work has filled the disk
    told = which_estimator(model, **asked)
    assert told[0] == "gradient_covariance"
    assert "of the 500,000,000 of disk" in told[1]
    assert measure(model, **asked).to_json() == first.to_json()
    more = measure(model, **{**asked, "schemes": [*SMALL["schemes"], "int4"]})
    assert more.provenance.estimator == "gradient_covariance"
    elsewhere = {**asked, "workdir": tmp_path / "elsewhere"}
    assert which_estimator(model, **elsewhere)[0] == "weight_error"


@pytest.mark.parametrize("content", ["{", "[]", '["auto", "why"]', '"ab"', "3"])
def test_a_damaged_choice_is_made_again(content, tiny_model, tmp_path):
    workspace = Workspace.open(tiny_model("llama", torch.bfloat16), workdir=tmp_path)
    settings = Settings(**SMALL, **SIZES, quantizer="rtn")
    assert settle_estimator(workspace, settings).estimator == "gradient_covariance"
    [path] = workspace.folder.glob("estimator-*.json")
    kept = path.read_text()
    assert json.loads(kept)[0] == "gradient_covariance"
    path.write_text(content)
    assert settle_estimator(workspace, settings).estimator == "gradient_covariance"
    assert json.loads(path.read_text())[0] == "gradient_covariance"


def test_a_killed_run_goes_on_with_its_estimator(command_line, tiny_folder, tmp_path):
    folder, work, out = tiny_folder("mixtral"), tmp_path / "work", tmp_path / "costs.json"
    command = (
        f"measure {folder} --quantizer rtn --sequences 40 --length 16 --out {out} --workdir {work}"
    ).split()

    def begun() -> bool:
        return bool(list(work.glob("*/statistics-*")))

    command_line(*command, when=begun, kill=signal.SIGKILL)
    assert not out.exists()
    [kept] = work.rglob("estimator-*.json")
    kept.write_text(json.dumps(["fisher_diagonal", "There was room for it alone."]))
    assert command_line(*command) == 0
    assert json.loads(out.read_text())["provenance"]["estimator"] == "fisher_diagonal"


def test_a_time_limit_that_no_pass_fits_takes_the_weights_alone(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    sizes = Sizes(search=1, held_out=1, length=8)
    settings = {**SMALL, "sizes": sizes, "quantizer": "rtn", "workdir": tmp_path}
    short, long = (
        which_estimator(model, time_limit_s=1e-9, **settings),
        which_estimator(model, time_limit_s=1e6, **settings),
    )
    assert short[0] == "weight_error"
    assert "on the fewest sequences, and 1e-09 s is the limit" in short[1]
    assert long[0] == "gradient_covariance"
    table = measure(model, time_limit_s=1e-9, **settings)
    assert table.provenance.estimator == "weight_error"
    assert table.provenance.sizes["calibration"] == 4  # more would teach nothing
    assert not list(tmp_path.rglob("statistics-*"))
    # With gptq the covariances are gathered in any case.
    settings["quantizer"] = "gptq"
    assert which_estimator(model, time_limit_s=1e-9, **settings)[0] == "gradient_covariance"


def test_a_time_limit_is_for_text_whoever_asks(tiny_model, tmp_path):
    inputs = {"input_ids": torch.ones(8, 16, dtype=torch.int64)}
    settings = {"time_limit_s": 60, "quantizer": "rtn", "workdir": tmp_path}
    with pytest.raises(CalibrationError, match="the calibration is no text"):
        which_estimator(tiny_model("bert", torch.bfloat16), calibration=inputs, **settings)
    sizes = Sizes(length=1000)
    with pytest.raises(InputError, match="1,000 tokens long, but the model reads at most 64"):
        which_estimator(tiny_model("llama", torch.bfloat16), sizes=sizes, **settings)


def test_whole_models_need_memory_for_all_layers_at_once(tiny_model, tmp_path, monkeypatch):
    model = tiny_model("llama", torch.bfloat16)
    settings = {**SMALL, **SIZES, "quantizer": "rtn"}
    monkeypatch.setattr("bitplan.pipeline.estimator.total_memory_bytes", lambda: 200_000)
    blocks = which_estimator(model, workdir=tmp_path, **settings)
    whole = which_estimator(model, workdir=tmp_path, through="whole", **settings)
    assert blocks[0] == "gradient_covariance"
    assert whole[0] != "gradient_covariance"
    assert "bytes in memory, and 140,000 may be held" in whole[1]


def test_a_name_is_its_own_reason(tiny_model, tmp_path, caplog):
    model = tiny_model("llama", torch.bfloat16)
    assert which_estimator(model, workdir=tmp_path, estimator="sqnr") == (
        "sqnr",
        "It was asked for by its name.",
    )
    with caplog.at_level(logging.INFO, logger="bitplan"):
        measure(model, workdir=tmp_path, **SMALL, **SIZES)
    [said] = [r.getMessage() for r in caplog.records if "estimator is" in r.getMessage()]
    assert said == (
        "The estimator is gradient_covariance: The quantizer reads the same covariances, so they "
        "cost nothing more."
    )
