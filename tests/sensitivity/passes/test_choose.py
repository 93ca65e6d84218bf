"""Which way through a model is taken, and that every way gives the same table."""

import logging

import pytest
import torch

from bitplan import measure
from bitplan.calibration import Sizes
from bitplan.errors import InputError, ModelError
from bitplan.models import find_layers
from bitplan.sensitivity import BlockWise, WholeModel, choose_pass, open_pass

SETTINGS = {
    "sizes": Sizes(calibration=6, search=2, held_out=2, length=16),
    "schemes": ["int2", "int4g32", "bf16"],
}


def test_the_whole_model_is_run_while_it_fits():
    parts = {"model_bytes": 300, "activation_bytes": 100, "statistics_bytes": 300}
    name, why = choose_pass(**parts, memory_bytes=1000)
    assert name == "whole"
    assert "700 bytes" in why
    for part in parts:
        more = {**parts, part: parts[part] + 1}
        assert choose_pass(**more, memory_bytes=1000)[0] == "blocks"


def opened(name, model, tmp_path):
    return open_pass(
        name,
        model=model,
        layers=find_layers(model),
        moments=("covariance",),
        tokens=torch.ones(2, 8, dtype=torch.int64),
        labels="data",
        folder=tmp_path / "kept",
    )


def test_a_pass_is_opened_by_its_name(tiny_model, tmp_path):
    model = tiny_model("llama")
    assert type(opened("auto", model, tmp_path)) is WholeModel
    assert type(opened("whole", model, tmp_path)) is WholeModel
    assert type(opened("blocks", model, tmp_path)) is BlockWise
    with pytest.raises(InputError, match=r"named 'block'. Choose one of: auto, whole, blocks"):
        opened("block", model, tmp_path)


def test_no_chain_is_run_whole_unless_blocks_were_asked_for(
    tiny_model, tmp_path, monkeypatch, caplog
):
    model = tiny_model("llama")
    model.model.layers[1] = model.model.layers[0]  # one block, twice
    with pytest.raises(ModelError, match="cannot be run block by block"):
        opened("blocks", model, tmp_path)
    monkeypatch.setattr("bitplan.sensitivity.passes.choose.total_memory_bytes", lambda: 1000)
    with caplog.at_level(logging.WARNING):
        assert type(opened("auto", model, tmp_path)) is WholeModel
    assert "run at once, though memory is short" in caplog.text


@pytest.mark.parametrize("name", ["llama-tied", "mixtral"])
def test_the_table_is_the_same_whichever_way(name, tiny_folder, tmp_path):
    tables = [
        measure(tiny_folder(name), through=through, workdir=tmp_path / through, **SETTINGS)
        for through in ("whole", "blocks")
    ]
    assert tables[0].to_json() == tables[1].to_json()
    assert not list(tmp_path.rglob("activations"))
