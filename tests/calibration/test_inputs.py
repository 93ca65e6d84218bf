"""Calibration by tensors of other names than text's."""

import pytest
import torch

from bitplan.calibration import Counts, inputs_of, own_length, prepare, sources_of, tokens_digest
from bitplan.errors import CalibrationError
from bitplan.models import Inputs

COUNTS = Counts(calibration=4, search=2, held_out=3, length=16)
TOKENS = torch.arange(3, 23).repeat(10, 1) + torch.arange(10).unsqueeze(1)


def test_inputs_are_split_by_row(tiny_model):
    given = {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :5]}
    sets = prepare(given, model=tiny_model("t5"), counts=COUNTS)
    assert sets.source == "input_ids [10, 20], decoder_input_ids [10, 5]"
    parts = [sets.held_out, sets.search, sets.calibration]
    assert all(isinstance(part, Inputs) for part in parts)
    assert [len(part) for part in parts] == [3, 2, 4]
    rows = torch.cat([part.tensors["input_ids"] for part in parts])
    assert torch.equal(rows, TOKENS[:9])
    assert len({tokens_digest(part) for part in parts}) == 3


def test_tokens_by_name_are_tokens(tiny_model):
    model = tiny_model("llama")
    named, plain = (prepare(g, model=model, counts=COUNTS) for g in ({"input_ids": TOKENS}, TOKENS))
    assert torch.equal(named.calibration, plain.calibration)


def test_tensors_by_name_are_told_from_weighted_paths():
    assert inputs_of({"input_ids": TOKENS}) is not None
    assert sources_of({"input_ids": TOKENS}) == ()
    for other in (None, TOKENS, ["text"], {"a.txt": 0.5}, {}, "a.txt"):
        assert inputs_of(other) is None
    assert [source.label for source in sources_of({"a.txt": 0.5})] == ["a.txt"]


@pytest.mark.parametrize(
    ("given", "length"),
    [({"input_ids": TOKENS}, 20), ({"pixel_values": torch.rand(9, 3, 4, 4)}, 2)],
    ids=["tokens", "images"],
)
def test_inputs_have_a_length_of_their_own(given, length):
    assert own_length(given) == length


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "t5",
            {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:5]},
            "needs as many as the other",
        ),
        ("t5", {"decoder_input_ids": TOKENS}, "needs input_ids, but it was given decoder_input"),
        ("bert", {"input_ids": TOKENS + 90}, r"vocabulary has\s+96"),
        (
            "bert",
            {"input_ids": TOKENS, "attention_mask": torch.full((10, 20), torch.nan)},
            "attention_mask holds values that are NaN",
        ),
        ("llama", {"input_ids": TOKENS[:2]}, "at least 3 different sequences"),
    ],
    ids=["rows", "missing", "vocabulary", "nan", "few"],
)
def test_inputs_that_cannot_be_read_are_refused(name, given, message, tiny_model):
    with pytest.raises(CalibrationError, match=message):
        prepare(given, model=tiny_model(name), counts=COUNTS)
