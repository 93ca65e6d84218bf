"""The law through a few widths: exact on a line, and honest about what is not on it."""

import math

import numpy as np
import pytest
import torch

from bitplan import measure
from bitplan.calibration import Sizes
from bitplan.errors import InputError
from bitplan.schema import Kind, Layer, Scheme
from bitplan.sensitivity import fit
from bitplan.sensitivity.losses import Losses

LAYER = Layer(name="a", kind=Kind.LINEAR, shape=(8, 128))


def line(*bits: int, bend: float = 0.0) -> dict[Scheme, Losses]:
    """Losses that fall fourfold a bit; a bend lifts 3 bits off the line."""
    found = {}
    for width in bits:
        loss = 4.0**-width * math.exp(bend if width == 3 else 0.0)
        by_sequence = loss * np.array([0.5, 1.5])
        found[Scheme.parse(f"int{width}g64")] = Losses(loss=loss, by_sequence=by_sequence)
    return found


def test_a_line_is_found_again():
    wanted = [Scheme.parse(f"int{bits}g64") for bits in (2, 3, 4, 5, 6, 8)]
    law = fit({LAYER: line(2, 4, 8)}, {LAYER: wanted})
    assert law.predicted == 3
    assert law.error == pytest.approx(0.0, abs=1e-9)
    for scheme in wanted:
        assert law.losses[LAYER][scheme].loss == pytest.approx(4.0**-scheme.bits)
    five = law.losses[LAYER][Scheme.parse("int5g64")]
    assert five.by_sequence / five.loss == pytest.approx([0.5, 1.5])


def test_what_is_off_the_line_is_told():
    law = fit({LAYER: line(2, 3, 4, bend=0.3)}, {LAYER: list(line(2, 3, 4))})
    assert law.predicted == 0
    assert law.error == pytest.approx(0.3)


def test_two_widths_say_nothing_of_their_fit():
    assert math.isnan(fit({LAYER: line(2, 4)}, {LAYER: list(line(2, 3, 4))}).error)


def test_one_width_is_too_few():
    with pytest.raises(InputError, match=r"int3g64 of a .* at least two .* there are 1\. Measure"):
        fit({LAYER: line(2)}, {LAYER: list(line(2, 3))})
    with pytest.raises(InputError, match=r"int3g32 of a .* there are 0"):
        fit({LAYER: line(2, 4)}, {LAYER: [Scheme.parse("int3g32")]})


def test_what_has_one_width_is_not_predicted():
    known = {
        Scheme.parse(name): losses
        for name, losses in zip(("bfp3g32", "bfp5g32"), line(3, 5).values(), strict=True)
    }
    law = fit({LAYER: known | line(2, 4)}, {LAYER: [Scheme.parse("bfp4g32")]})
    assert law.losses[LAYER][Scheme.parse("bfp4g32")].loss == pytest.approx(4.0**-4)
    for name in ("fp8g64", "nf4g64", "mxfp4", "ternaryg64"):
        with pytest.raises(InputError, match=f"{name} of a cannot be .* Measure {name} itself"):
            fit({LAYER: known | line(2, 4)}, {LAYER: [Scheme.parse(name)]})
    with pytest.raises(InputError, match="such as bfp3g64 and bfp5g64"):
        fit({LAYER: known}, {LAYER: [Scheme.parse("bfp4g64")]})


def test_a_table_says_what_was_predicted(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    menu = ["int2g32", "int3g32", "int4g32", "int5g32", "int6g32", "bf16"]
    sizes = Sizes(calibration=8, search=2, held_out=2, length=24)
    settings = {"schemes": menu, "sizes": sizes, "quantizer": "clip"}
    whole = measure(model, workdir=tmp_path / "whole", **settings)
    few = measure(
        model, workdir=tmp_path / "few", measured=["int2g32", "int4g32", "int6g32"], **settings
    )
    assert whole.law_error is None
    assert few.law_error is not None
    assert 0 < few.law_error < 0.5
    assert not list((tmp_path / "few").rglob("int3*.safetensors"))
    for row, truth in zip(few.rows, whole.rows, strict=True):
        assert [cost.predicted for cost in row.costs] == [False, True, False, True, False, False]
        for cost, exact in zip(row.costs, truth.costs, strict=True):
            assert cost.bytes == exact.bytes
            if cost.predicted:
                assert cost.loss == pytest.approx(exact.loss, rel=0.7)
            else:
                assert cost == exact.model_copy(update={"inseparable": cost.inseparable})
