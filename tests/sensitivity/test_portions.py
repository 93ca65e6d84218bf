"""Large layers are rendered a few schemes at a time; rows say what share of tokens came."""

import pytest
import torch

from bitplan import measure
from bitplan.calibration import Sizes

SETTINGS = {
    "sizes": Sizes(calibration=6, search=2, held_out=2, length=16),
    "schemes": ["int2", "int4g32", "int8s", "bf16"],
}


@pytest.mark.parametrize("quantizer", ["gptq", "rtn"])
def test_a_few_schemes_at_a_time_cost_the_same(quantizer, tiny_model, tmp_path, monkeypatch):
    model = tiny_model("llama", torch.bfloat16)
    settings = {**SETTINGS, "quantizer": quantizer}
    together = measure(model, workdir=tmp_path / "together", **settings)
    monkeypatch.setattr("bitplan.sensitivity.portions.RENDERED_BYTES", 1500)
    apart = measure(model, workdir=tmp_path / "apart", **settings)
    assert apart == together


def test_progress_of_a_few_schemes_at_a_time_ends_where_it_should(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("bitplan.sensitivity.portions.RENDERED_BYTES", 1500)
    seen = []
    table = measure(
        tiny_model("llama", torch.bfloat16),
        workdir=tmp_path,
        progress=lambda *now: seen.append(now),
        **SETTINGS,
    )
    told = [(done, total) for stage, done, total in seen if stage == "measure"]
    counts = [done for done, _ in told]
    assert len(counts) > len(table.rows) + 1
    assert counts == sorted(set(counts))
    assert counts[0] == 0
    assert {total for _, total in told} == {counts[-1]}
    assert counts[-1] == sum(row.layer.parameters * len(row.costs) for row in table.rows)


def test_a_row_tells_the_share_of_tokens_that_reach_a_matrix(tiny_model, tmp_path):
    table = measure(tiny_model("mixtral", torch.bfloat16), workdir=tmp_path, **SETTINGS)
    for row in table.rows:
        # 2 of 3 experts a token.
        expected = 2 / 3 if row.layer.kind == "experts" else 1.0
        assert row.layer.tokens == pytest.approx(expected)
