"""Salient columns and low-rank terms, from measuring to a saved model that generates."""

import torch
from transformers import AutoModelForCausalLM

from bitplan import Budget, apply_plan, measure, solve
from bitplan.apply import held_bytes
from bitplan.calibration import Sizes
from bitplan.export import save
from bitplan.footprint import scheme_bytes

MENU = ["int2g16", "int3g16", "int3g16+2%int8", "int3g16+r2", "int4g16+2%int8+r2", "bf16"]
MENU += ["int4g16+2:4", "int4g16+2:4+2%int8", "nf4g16+2%bf16"]
MENU += ["int4g16+25%ch", "int4g16+25%ch+r2"]
SIZES = Sizes(calibration=8, search=2, held_out=2, length=16)


def test_they_are_measured_chosen_applied_saved_and_generate(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    table = measure(model, schemes=MENU, workdir=tmp_path / "work", sizes=SIZES)
    for row in table.rows:
        assert [str(cost.scheme) for cost in row.costs] == MENU
        losses = {str(cost.scheme): cost.loss for cost in row.costs}
        for cost in row.costs:
            assert cost.bytes == scheme_bytes(row.layer.shape, cost.scheme)
        assert losses["bf16"] == 0 < losses["int4g16+2%int8+r2"] < losses["int3g16"]
        assert losses["int3g16+2%int8"] < losses["int3g16"] < losses["int2g16"]
        assert losses["int4g16+25%ch+r2"] < losses["int4g16+25%ch"]
        assert losses["int3g16+r2"] < losses["int3g16"]
        assert losses["int4g16+2:4+2%int8"] < losses["int4g16+2:4"]
    assert solve(table, Budget(bytes=table.rest_bytes + 30_000)).bytes <= table.rest_bytes + 30_000
    layers = [row.layer.name for row in table.rows]
    pins = dict(zip(layers, MENU * len(layers), strict=False))
    plan = solve(table, Budget(gb=1.0), pins=pins)
    assert {str(choice.scheme) for choice in plan.choices} == set(MENU)
    packed = apply_plan(tiny_model("llama", torch.bfloat16), plan, workdir=tmp_path / "work")
    assert held_bytes(packed) == plan.bytes
    folder = save(packed, tmp_path / "model", plan)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(input_ids=tokens).logits, packed(input_ids=tokens).logits)
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    told = [one.generate(input_ids=tokens, **settings) for one in (packed, loaded)]
    assert told[0].shape == (2, 14)
    assert torch.equal(*told)
