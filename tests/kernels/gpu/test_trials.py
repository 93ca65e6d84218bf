"""Trying shapes on the device: which are tried, what is kept, and that each makes the product."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch

from bitplan.kernels.gpu import trials
from bitplan.kernels.gpu.layout import panel_of
from bitplan.kernels.gpu.shapes import Blocks, Device, blocks_of
from bitplan.schema import Scheme
from interpreted import FEW, interpret

CPU = torch.device("cpu")
SHAPES = [(4096, 4096), (14336, 4096), (1024, 8192), (576, 1536), (40, 96)]
NAMES = ["int4g64", "int2g64d", "nf4g64", "ternary2g64", "int4g64+2:4", "bitmod4g64", "ternaryg16"]
DEVICES = [Device(multiprocessors=132), Device(multiprocessors=304, cuda=False)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BITPLAN_CACHE", str(tmp_path))
    trials.file_of.cache_clear()
    monkeypatch.setattr(trials, "_read", {})
    yield tmp_path
    trials.file_of.cache_clear()


class Timed:
    """Runs what is tried; `seconds` says how long each split of columns takes."""

    def __init__(self, monkeypatch, seconds) -> None:
        self.ran: list[Blocks] = []
        self.seconds = seconds
        monkeypatch.setattr(trials, "seconds_of", self)

    def __call__(self, run) -> float:
        run()
        return self.seconds(self.ran[-1])

    def best(self, tokens: int = 1, dtype: str = "bf16") -> Blocks:
        of = {"place": CPU, "run": self.ran.append}
        scheme = Scheme.parse("int4g64")
        return trials.tried(scheme, 4096, 4096, tokens, dtype, DEVICES[0], **of)


@pytest.mark.parametrize("device", DEVICES, ids=["cuda", "hip"])
@pytest.mark.parametrize("name", NAMES)
def test_only_shapes_that_the_model_has_are_tried(name, device):
    scheme = Scheme.parse(name)
    for (rows, columns), tokens in product(SHAPES, (1, 16, 17, 64, 512)):
        first, *others = trials.candidates_for(scheme, rows, columns, tokens, device)
        assert first == blocks_of(scheme, rows, columns, tokens, device)
        assert len(others) < trials.MOST
        panels = max(1, columns // panel_of(scheme))
        tiles = [blocks_of(scheme, rows, columns, size, device) for size in trials.TOKENS]
        for one in others:
            assert one != first
            if first.many:
                assert one in tiles
            else:
                assert one.splits * one.panels >= panels > (one.splits - 1) * one.panels
                compiled = {"splits": first.splits, "panels": first.panels}
                assert vars(one) | compiled == vars(first)


def test_the_quickest_is_kept_and_not_tried_again(folder, monkeypatch):
    timed = Timed(monkeypatch, lambda blocks: abs(blocks.splits - 6))
    assert timed.best().splits == 6
    assert len(timed.ran) == trials.MOST
    assert timed.best(tokens=7).splits == 6  # as many tokens as a program takes
    assert len(timed.ran) == trials.MOST
    trials._read.clear()  # another process
    assert timed.best().splits == 6
    assert len(timed.ran) == trials.MOST
    timed.best(tokens=9)
    timed.best(dtype="fp16")
    assert len(timed.ran) == 3 * trials.MOST
    [file] = (folder / "tuned").iterdir()
    assert file.name.startswith("cpu-triton-")
    assert json.loads(file.read_text()) == {
        "int4g64 4096x4096 8 bf16": [8, 6],
        "int4g64 4096x4096 16 bf16": [16, 6],
        "int4g64 4096x4096 8 fp16": [8, 6],
    }


def test_what_other_processes_kept_stays_and_what_fits_no_more_is_tried_again(folder, monkeypatch):
    timed = Timed(monkeypatch, lambda blocks: -blocks.splits)
    timed.best()
    [file] = (folder / "tuned").iterdir()
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "of another process": [8, 1]}))
    timed.best(tokens=16)
    assert "of another process" in json.loads(file.read_text())
    for text in (json.dumps({key: [8, 5] for key in kept}), "{", "[]"):
        file.write_text(text)
        trials._read.clear()
        before = len(timed.ran)
        assert timed.best().splits == 16
        assert len(timed.ran) == before + trials.MOST


def test_where_nothing_can_be_written_it_is_known_to_the_process(folder, monkeypatch):
    (folder / "tuned").write_text("a file")
    timed = Timed(monkeypatch, lambda blocks: blocks.splits)
    assert timed.best() == timed.best()
    assert len(timed.ran) == trials.MOST


def test_while_a_graph_is_captured_nothing_is_timed(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "NVIDIA Some 80GB")
    timed = Timed(monkeypatch, lambda blocks: -blocks.splits)
    of = {"place": torch.device("cuda"), "run": timed.ran.append}
    scheme = Scheme.parse("int4g64")
    found = trials.tried(scheme, 4096, 4096, 1, "bf16", DEVICES[0], **of)
    assert found == blocks_of(scheme, 4096, 4096, 1, DEVICES[0])
    assert not timed.ran
    assert trials.file_of(torch.device("cuda")).name.startswith("nvidia-some-80gb-triton-")


def test_a_product_in_another_shape_is_the_same_product():
    names = ["int4g64", "ternary2g64"]
    for name, found in zip(names, interpret([f"trials of {n}" for n in names]), strict=True):
        assert found["tried"] > 1
        assert found["again"] == 0
        assert f"{name} 200x2048 8 bf16" in found["kept"]
        assert found["error"] < max(FEW["bfloat16"], found["reference"])
        assert found["same"]
