"""Counts as asked for and as settled, and those that fit a time limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitplan.calibration import Counts, Sizes, settle, within
from bitplan.calibration.time_limit import STEPS
from bitplan.errors import CalibrationError

COUNTS = Counts(calibration=32, search=8, held_out=16, length=256)


@pytest.mark.parametrize("kind", [Sizes, Counts])
@pytest.mark.parametrize(
    "sizes", [{"calibration": 0}, {"search": 0}, {"held_out": -1}, {"length": 1}]
)
def test_sizes_that_leave_nothing_are_refused(kind, sizes):
    given = {"calibration": 4, "search": 4, "held_out": 4, "length": 4, **sizes}
    with pytest.raises(CalibrationError, match="is too small"):
        kind(**given)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_default_length_is_cut_to_the_context_and_said(name, tiny_model, caplog):
    counts = settle(Sizes(), tiny_model(name))
    assert counts == Counts(calibration=32, search=8, held_out=16, length=64)
    assert "reads at most 64 tokens" in caplog.text


def test_a_length_that_was_asked_for_is_not_cut(tiny_model, caplog):
    model = tiny_model("llama")
    assert settle(Sizes(calibration=5, length=64), model).length == 64
    with pytest.raises(CalibrationError, match=r"256 tokens long, .* at most 64"):
        settle(Sizes(length=256), model)
    with pytest.raises(CalibrationError, match=r"65 tokens long, .* at most 64"):
        settle(Sizes(length=32), model, own_length=65)
    assert settle(Sizes(length=32), model, own_length=20).length == 20
    assert not caplog.text


def test_a_model_without_a_limit_gets_the_default(tiny_model, caplog):
    assert settle(Sizes(), tiny_model("mamba")) == COUNTS
    assert not caplog.text


@pytest.mark.parametrize(
    ("limit_s", "calibration"),
    [(12, 4), (35.9, 8), (36, 16), (131.9, 32), (132, 64), (1027, 256), (1028, 512), (1e9, 512)],
)
def test_the_most_sequences_that_fit_are_chosen(limit_s, calibration, caplog):
    chosen = within(limit_s, sequence_s=2.0, overhead_s=4.0, counts=COUNTS)
    assert chosen == Counts(calibration=calibration, search=8, held_out=16, length=256)
    assert not caplog.text


def test_a_limit_that_is_too_short_is_said(caplog):
    chosen = within(10, sequence_s=2.0, overhead_s=4.0, counts=COUNTS)
    assert chosen.calibration == 4
    assert "The time limit is 10 s" in caplog.text
    assert "about 12 s" in caplog.text


@given(
    limits=st.tuples(st.floats(0.1, 1e5), st.floats(0.1, 1e5)),
    sequence_s=st.floats(1e-4, 1e3),
    overhead_s=st.floats(0, 1e4),
)
def test_more_time_never_means_fewer(limits, sequence_s, overhead_s):
    chosen = [
        within(limit, sequence_s=sequence_s, overhead_s=overhead_s, counts=COUNTS).calibration
        for limit in sorted(limits)
    ]
    assert chosen[0] <= chosen[1]
    assert set(chosen) <= set(STEPS)
    if chosen[1] > STEPS[0]:
        assert overhead_s + chosen[1] * sequence_s <= max(limits)
