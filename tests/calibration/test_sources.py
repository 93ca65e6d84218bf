"""One source or several: what they may be, what they are called, and what is refused."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitplan.calibration import Source, check_sources, own_length, parse_source, sources_of
from bitplan.errors import CalibrationError

TOKENS = torch.arange(60).reshape(4, 15)


@pytest.mark.parametrize(
    ("calibration", "named"),
    [
        (None, []),
        ("dir/a.txt", [("a.txt", 1.0)]),
        (Path("dir/a.txt"), [("a.txt", 1.0)]),
        (["one text", "another"], [("documents", 1.0)]),
        ((), [("documents", 1.0)]),
        (TOKENS, [("tokens", 1.0)]),
        (Source("a.txt", weight=3, name="code"), [("code", 3)]),
        ([Source("a.txt", weight=0.7), Source(["text"])], [("a.txt", 0.7), ("documents", 1.0)]),
        ({"a.txt": 2, Path("b.txt"): 1}, [("a.txt", 2), ("b.txt", 1)]),
        ([Source("x/a"), Source("y/a"), Source("z/a")], [("a", 1), ("a (2)", 1), ("a (3)", 1)]),
    ],
)
def test_sources_have_names_and_weights(calibration, named):
    assert [(one.label, one.weight) for one in sources_of(calibration)] == named


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, "0.5", None])
def test_a_weight_that_is_not_above_zero_is_refused(weight):
    with pytest.raises(CalibrationError, match=r"The weight of a\.txt is .*; it must be a number"):
        Source("dir/a.txt", weight=weight)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({}, "no calibration source"),
        ([Source("a"), "b"], "mixes sources with other things"),
        ({5: 1.0}, "A int is no source"),
        ({("text",): 1.0}, "must be from paths to weights"),
    ],
)
def test_what_is_no_source_is_refused(calibration, message):
    with pytest.raises(CalibrationError, match=message):
        sources_of(calibration)


@pytest.mark.parametrize("path", ["missing", "", "a\0b", "x" * 5000])
def test_a_path_that_does_not_exist_is_refused(path, tmp_path):
    check_sources([Source(tmp_path), Source(["text"])])
    for calibration in (path, {path: 1.0}, [Source(tmp_path), Source(path)]):
        with pytest.raises(CalibrationError, match="There is no calibration file"):
            check_sources(calibration)


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.jsonl", "a.jsonl", 1.0),
        ("a.jsonl:0.7", "a.jsonl", 0.7),
        ("a.jsonl:2", "a.jsonl", 2.0),
        ("a.jsonl:1e-3", "a.jsonl", 1e-3),
        ("a:b.txt", "a:b.txt", 1.0),
        ("a:b.txt:0.5", "a:b.txt", 0.5),
        ("C:\\text.txt", "C:\\text.txt", 1.0),
        ("C:\\text.txt:3", "C:\\text.txt", 3.0),
        ("there:2", "there:2", 1.0),
        ("there:2:0.5", "there:2", 0.5),
        ("gone:2", "gone", 2.0),
        (":2", ":2", 1.0),
        ("2", "2", 1.0),
        ("a:", "a:", 1.0),
        ("", "", 1.0),
        ("x" * 5000 + ":2", "x" * 5000, 2.0),
    ],
)
def test_a_path_may_have_a_weight_and_colons(text, path, weight, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there:2").write_text("text")
    assert parse_source(text) == Source(path, weight=weight)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf"])
def test_a_weight_that_makes_no_sense_is_refused(weight):
    with pytest.raises(CalibrationError, match=r"The weight of a\.txt is"):
        parse_source(f"a.txt:{weight}")


def test_tokens_have_their_own_length(tmp_path):
    save_file({"input_ids": TOKENS}, tmp_path / "tokens.safetensors")
    other = Source(TOKENS.reshape(6, 10), name="mine")
    assert own_length(None) is None
    assert own_length(["text"]) is None
    assert own_length(TOKENS) == own_length(tmp_path / "tokens.safetensors") == 15
    assert own_length([Source(["text"]), other]) == 10
    with pytest.raises(CalibrationError, match=r"tokens are 15 tokens long and those of mine 10"):
        own_length([Source(TOKENS), other])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"tokens": TOKENS, "mask": TOKENS[:1]}, "holds mask, tokens, but no tensor input_ids"),
        ({}, "holds nothing, but no tensor input_ids"),
        (None, "is no readable safetensors file"),
    ],
)
def test_a_file_without_tokens_is_refused(tensors, message, tmp_path):
    path = tmp_path / "tokens.safetensors"
    if tensors is None:
        path.write_bytes(b"nothing")
    else:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    with pytest.raises(CalibrationError, match=message):
        own_length(path)
