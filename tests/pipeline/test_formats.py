"""All families of schemes from measuring to a saved model."""

import pytest
import torch

from bitplan import Budget, apply_plan, measure, solve
from bitplan.apply import held_bytes
from bitplan.calibration import Sizes
from bitplan.errors import InputError, SchemeError
from bitplan.export import load, save
from bitplan.footprint import scheme_bytes
from bitplan.schema import FAMILIES

WIDTHS = ("int3", "int5", "int6", "bfp5", "bfp6", "bfp7")
MENU = [stem for stem in FAMILIES if stem not in WIDTHS]
MENU += ["fp8g16", "nf4g16", "ternaryg16", "bfp4g16", "int4g16d", "int4g16sd", "nf4g16d", "bf16"]
SPARSE = ["int4g16+2:4", "int3g16+2:4", "int4g16+50%", "nf4g16+25%"]
MENU += SPARSE
SIZES = Sizes(calibration=8, search=2, held_out=2, length=16)


def test_every_family_is_measured_chosen_applied_and_saved(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    table = measure(model, schemes=MENU, workdir=tmp_path / "work", sizes=SIZES)
    for row in table.rows:
        assert [str(cost.scheme) for cost in row.costs] == MENU
        for cost in row.costs:
            assert cost.bytes == scheme_bytes(row.layer.shape, cost.scheme)
        losses = {str(cost.scheme): cost.loss for cost in row.costs}
        assert losses["bf16"] == 0 < losses["int8"] < losses["int4"] < losses["int2"]
        assert 0 < losses["fp8"] < losses["fp4"] < losses["ternary"] < losses["sign"]
        assert losses["nf4"] < losses["nf3"]
        assert losses["mxfp8"] < losses["mxfp4"]
        assert losses["int4"] < losses["int4g16+50%"] < losses["int4g16+2:4"] < losses["sign"]
        assert losses["nf4g16"] < losses["nf4g16+25%"]
    tokens = torch.randint(3, 96, (2, 16), generator=torch.Generator().manual_seed(1))
    # One layer for each family in turn, so that all are in some plan.
    layers = [row.layer.name for row in table.rows]
    for start in range(0, len(MENU), len(layers)):
        pins = dict(zip(layers, MENU[start:], strict=False))
        plan = solve(table, Budget(gb=1.0), pins=pins)
        assert {str(plan.schemes[name]) for name in pins} == set(pins.values())
        packed = apply_plan(tiny_model("llama", torch.bfloat16), plan, workdir=tmp_path / "work")
        assert held_bytes(packed) == plan.bytes
        said = packed(input_ids=tokens).logits
        assert said.isfinite().all()
        folder = save(packed, tmp_path / f"model-{start}", plan)
        assert torch.equal(load(folder)(input_ids=tokens).logits, said)


def test_a_tight_budget_takes_few_bits(tiny_model, tmp_path):
    menu = ["sign", "ternaryg16", "nf3g16", "nvfp4", "fp8", "bf16"]
    settings = {"workdir": tmp_path, "sizes": SIZES, "refine_tokens": 0}
    table = measure(tiny_model("llama", torch.bfloat16), schemes=menu, **settings)
    least = table.rest_bytes + sum(min(c.bytes for c in row.costs) for row in table.rows)
    sizes = []
    for share in (1.05, 1.8, 3.0, 6.0):
        plan = solve(table, Budget(bytes=int(least * share)))
        sizes.append(sum(c.scheme.bits * c.layer.parameters for c in plan.choices))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("name", ["fp8", "int4g32d", "int4g32+2:4"])
def test_a_cache_takes_what_it_can_store(name, tiny_model, tmp_path):
    with pytest.raises(SchemeError, match=r"is for weights: keys and values"):
        measure(tiny_model("llama"), workdir=tmp_path, context=16, cache_schemes=["int4g32", name])


def test_a_width_that_no_law_predicts_is_told_before_it_is_measured(tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"nf4g16 is to be predicted .* Measure nf4g16 itself"):
        measure(
            tiny_model("llama", torch.bfloat16),
            workdir=tmp_path,
            sizes=SIZES,
            schemes=["int2", "int4", "int3", "nf4g16"],
            measured=["int2", "int4"],
        )
    assert not any(tmp_path.iterdir())
