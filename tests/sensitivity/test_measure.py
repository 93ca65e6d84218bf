"""Rows of a cost table: each layer rendered, each error judged, and all of it kept."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitplan.compress import Store, render
from bitplan.footprint import legal_schemes, scheme_bytes
from bitplan.models import find_layers, weight_of
from bitplan.schema import Kind, Scheme
from bitplan.sensitivity import Meter, gather

MENU = ("int2", "int4", "int4g32", "int8s", "bf16")


def tokens_for(sequences: int = 40) -> Tensor:
    return torch.randint(3, 96, (sequences, 24), generator=torch.Generator().manual_seed(1))


def meter_of(
    model: nn.Module, folder: Path, tokens: Tensor | None = None, quantizer: str = "gptq"
) -> Meter:
    tokens = tokens_for() if tokens is None else tokens
    statistics = gather(model, find_layers(model), tokens, folder / "statistics", fisher=True)
    return Meter(
        model=model,
        statistics=statistics,
        store=Store(folder / quantizer),
        quantizer=quantizer,
        estimator="gradient_covariance",
    )


def legal_of(model: nn.Module, menu: tuple[str, ...] = MENU) -> dict:
    return {
        layer: legal_schemes(layer, weight_of(model, layer).dtype, menu)
        for layer in find_layers(model)
    }


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
@pytest.mark.parametrize("quantizer", ["gptq", "rtn"])
def test_a_cost_is_that_of_the_weight_as_rendered(name, quantizer, tiny_model, tmp_path):
    model = tiny_model(name, torch.bfloat16)
    meter, legal = meter_of(model, tmp_path, quantizer=quantizer), legal_of(model)
    for row in meter.rows(legal):
        layer = row.layer
        covariance = meter.statistics[layer.name].completed().covariance / meter.statistics.tokens
        weight = weight_of(model, layer)
        rendered = render(weight, legal[layer], quantizer=quantizer, covariance=covariance)
        for cost in row.costs:
            error = rendered[cost.scheme].decode(weight.dtype).float() - weight.float()
            loss = 0.5 * ((error @ covariance) * error).sum().item()
            assert cost.loss == pytest.approx(loss, rel=1e-4, abs=1e-12)
            assert cost.bytes == scheme_bytes(layer.shape, cost.scheme)
        assert [cost.scheme for cost in row.costs] == list(legal[layer])
        kept = next(cost for cost in row.costs if str(cost.scheme) == "bf16")
        assert kept.loss == kept.standard_error == 0
        assert row.costs[0].loss > row.costs[1].loss > row.costs[-2].loss > 0


def files_under(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_an_interrupt_at_any_layer_changes_no_byte(tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    legal, seen = legal_of(model), []
    meter = meter_of(model, tmp_path / "whole")
    expected = meter.rows(legal, progress=lambda *now: seen.append(now))
    files = files_under(meter.store.folder)
    for calls in range(1, len(seen) + 1):
        count = 0

        def stop(stage: str, done: int, total: int, at: int = calls) -> None:
            nonlocal count
            count += 1
            if count == at:
                raise KeyboardInterrupt

        stopped = meter_of(model, tmp_path / f"{calls}")
        with pytest.raises(KeyboardInterrupt):
            stopped.rows(legal, progress=stop)
        assert stopped.rows(legal) == expected
        assert files_under(stopped.store.folder) == files


def test_a_scheme_more_renders_itself_alone_and_changes_no_other(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    meter = meter_of(model, tmp_path / "one")
    few = meter.rows(legal_of(model, ("int4", "bf16")))
    times = {path: path.stat().st_mtime_ns for path in meter.store.folder.rglob("*.safetensors")}
    more = meter.rows(legal_of(model))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [row.costs[1] for row in more] == [row.costs[0] for row in few]
    assert more == meter_of(model, tmp_path / "two").rows(legal_of(model))


@pytest.mark.parametrize("damage", [b"", b"{", b'{"int4": {"loss": 1}}', b"[1]", b"null"])
def test_damaged_costs_are_found_again(damage, tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    meter = meter_of(model, tmp_path)
    expected = meter.rows(legal_of(model))
    for shard in meter.store.folder.rglob("*.json"):
        shard.write_bytes(damage)
    assert meter.rows(legal_of(model)) == expected


def test_a_damaged_weight_is_rendered_again(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    meter = meter_of(model, tmp_path)
    layer = find_layers(model)[1]
    scheme = Scheme.parse("int4")
    [packed] = meter.packed(layer, [scheme])
    path = meter.store.path(layer, scheme)
    expected = path.read_bytes()
    path.write_bytes(expected[:-3])
    [again] = meter.packed(layer, [scheme])
    assert all(torch.equal(again.tensors[name], packed.tensors[name]) for name in packed.tensors)
    assert path.read_bytes() == expected


def test_a_layer_that_calibration_never_reached_is_named_and_not_free(tiny_model, tmp_path, caplog):
    model = tiny_model("mixtral")
    for experts in (one for one in model.modules() if type(one).__name__ == "MixtralExperts"):
        experts.forward = lambda hidden, index, weights: torch.zeros_like(hidden)
    with caplog.at_level(logging.WARNING):
        rows = meter_of(model, tmp_path).rows(legal_of(model))
    unreached = [row for row in rows if row.layer.kind is Kind.EXPERTS]
    assert len(unreached) == 4
    for row in unreached:
        two_bits, four_bits = row.costs[0], row.costs[1]
        assert 1 > two_bits.loss > four_bits.loss > 1e-4
        assert two_bits.standard_error == two_bits.loss
        assert f"never reached {row.layer.name}" in caplog.text
    assert caplog.text.count("never reached") == 4


def test_an_expert_that_calibration_never_chose_is_not_free(tiny_model, tmp_path, caplog):
    model = tiny_model("mixtral")
    for router in (one for one in model.modules() if type(one).__name__ == "MixtralTopKRouter"):
        forward = router.forward

        def never_the_last(hidden: Tensor, forward=forward) -> tuple:
            logits, weights, index = forward(hidden)
            return logits, weights, index % 2

        router.forward = never_the_last
    meter = meter_of(model, tmp_path)
    rows = [row for row in meter.rows(legal_of(model)) if row.layer.kind is Kind.EXPERTS]
    for row in rows:
        statistics = meter.statistics[row.layer.name]
        assert statistics.reached.tolist() == [True, True, False]
        [packed] = meter.packed(row.layer, [row.costs[0].scheme])
        error = packed.decode() - weight_of(model, row.layer)
        per_expert = ((error @ statistics.completed().covariance) * error).sum((1, 2))
        assert per_expert[2] > 0.1 * per_expert[:2].mean()
        total = per_expert.sum().item() / (2 * meter.statistics.tokens)
        assert row.costs[0].loss == pytest.approx(total, rel=1e-4)
    assert "never reached" not in caplog.text
