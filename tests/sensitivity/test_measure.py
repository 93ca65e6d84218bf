"""Rows of a cost table: each layer rendered, each error judged, and all of it kept."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitplan import measure
from bitplan.calibration import Sizes
from bitplan.compress import Store, reads_covariance, render
from bitplan.errors import InputError
from bitplan.footprint import legal_schemes, scheme_bytes
from bitplan.models import find_layers, weight_of
from bitplan.schema import Kind, Layer, Scheme
from bitplan.sensitivity import (
    LAYER_ESTIMATORS,
    MODEL_ESTIMATORS,
    Meter,
    Shards,
    StatisticsFolder,
    WholeModel,
    gather,
    get_estimator,
    warn_of_unreached,
)
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.moments.shrinkage import shrinkage
from bitplan.sensitivity.row import row_of
from bitplan.sensitivity.statistics import LayerStatistics
from discounted import discounted

MENU = ("int2", "int4", "int4g32", "int8s", "bf16")


def tokens_for(sequences: int = 6) -> Tensor:
    return torch.randint(3, 96, (sequences, 24), generator=torch.Generator().manual_seed(1))


def meter_of(
    model: nn.Module,
    folder: Path,
    *,
    quantizer: str = "gptq",
    estimator: str = "gradient_covariance",
    experts: str = "together",
) -> Meter:
    tokens, judge = tokens_for(), get_estimator(estimator)
    needs = {judge.labels: {"covariance", *judge.moments}}
    if reads_covariance(quantizer):
        needs.setdefault("data", {"covariance"})
    statistics = {}
    for labels, moments in needs.items():
        statistics[labels] = StatisticsFolder(
            folder=folder / f"statistics-{labels}", sequences=len(tokens)
        )
        through = WholeModel(model=model, tokens=tokens, labels=labels)
        layers = find_layers(model, experts=experts)
        gather(layers, sorted(moments), through, statistics[labels])
    return Meter(
        model=model,
        statistics=statistics,
        store=Store(folder / quantizer),
        shards=Shards(folder=folder / quantizer / "costs" / estimator),
        quantizer=quantizer,
        estimator=judge,
    )


def read(meter: Meter, layer: Layer) -> LayerStatistics:
    return meter.statistics["data"].read(layer, ["covariance"])


def legal_of(model: nn.Module, menu: tuple[str, ...] = MENU) -> dict:
    return {
        layer: legal_schemes(layer, weight_of(model, layer).dtype, menu)
        for layer in find_layers(model)
    }


def output_weights(statistics: LayerStatistics) -> Tensor:
    """How much the loss cares for each output, or how likely a row is to be looked up."""
    sums = statistics["covariance"]
    squares = sums["squares"].sum(0)
    if squares.any():
        return squares / squares.mean(-1, keepdim=True)
    lookups = sums["lookups"]
    unseen = (lookups == 1).sum() / lookups.sum()
    return (1 - unseen) * lookups / lookups.mean() + unseen


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
@pytest.mark.parametrize("quantizer", ["gptq", "rtn"])
def test_a_cost_is_that_of_the_weight_as_rendered(name, quantizer, tiny_model, tmp_path):
    model = tiny_model(name, torch.bfloat16)
    meter, legal = meter_of(model, tmp_path, quantizer=quantizer), legal_of(model)
    for row in meter.rows(legal):
        layer = row.layer
        statistics = read(meter, layer).completed()
        covariance, share = statistics.covariance, shrinkage(statistics["covariance"])
        weight = weight_of(model, layer)
        rendered = render(
            weight, legal[layer], quantizer=quantizer, covariance=covariance, shrinkage=share
        )
        for cost in row.costs:
            error = rendered[cost.scheme].decode(weight.dtype).float() - weight.float()
            by_output = output_weights(meter.statistics["data"].read(layer, ["covariance"]))
            by_row = ((error @ discounted(covariance)) * error).sum(-1)
            loss = 0.5 * (by_row * by_output).sum().item()
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

        folder = tmp_path / f"{calls}"
        shards = Shards(folder=folder / meter.shards.folder.relative_to(meter.store.folder))
        stopped = replace(meter, store=Store(folder), shards=shards)
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
    told = [(row.costs[1].loss, row.costs[1].standard_error) for row in more]
    assert told == [(row.costs[0].loss, row.costs[0].standard_error) for row in few]
    assert more == meter_of(model, tmp_path / "two").rows(legal_of(model))


@pytest.mark.parametrize("damage", ["empty", "cut", "flip", "foreign", "removed"])
def test_damaged_costs_are_found_again(damage, tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    meter = meter_of(model, tmp_path)
    expected = meter.rows(legal_of(model))
    files = files_under(tmp_path)
    shards = sorted(meter.shards.folder.rglob("*.json"))
    assert len(shards) == sum(map(len, legal_of(model).values()))
    foreign = shards[0].read_bytes()
    for shard in shards[1:]:
        content = shard.read_bytes()
        shard.write_bytes(
            {
                "empty": b"",
                "cut": content[:-9],
                "flip": content.replace(b"1", b"7", 1),
                "foreign": foreign,
                "removed": b"",
            }[damage]
        )
        if damage == "removed":
            shard.unlink()
    assert files_under(tmp_path) != files
    assert meter.rows(legal_of(model)) == expected
    assert files_under(tmp_path) == files


@pytest.mark.parametrize("engine", ["serial", "auto"])
def test_a_shard_is_read_once(engine, tiny_model, tmp_path, caplog):
    model = tiny_model("llama", torch.bfloat16)
    meter = replace(meter_of(model, tmp_path), engine=engine)
    expected = meter.rows(legal_of(model))
    for shard in meter.shards.folder.rglob("int4.json"):
        shard.write_bytes(b"")
    assert meter.rows(legal_of(model)) == expected
    # Whoever reads a damaged one says so.
    assert caplog.text.count("is damaged") == len(find_layers(model))


def test_costs_removed_while_they_are_read_are_told(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    meter = meter_of(model, tmp_path)
    layer = find_layers(model)[0]

    def remove(stage: str, done: int, total: int) -> None:
        if done == total:
            meter.shards.path(layer, Scheme.parse("int4")).unlink()

    with pytest.raises(InputError, match=rf"Costs of {layer.name} in .* were removed or damaged"):
        meter.rows(legal_of(model), progress=remove)
    assert meter.rows(legal_of(model)) == meter_of(model, tmp_path / "new").rows(legal_of(model))


@pytest.mark.parametrize("estimator", LAYER_ESTIMATORS)
def test_every_estimator_fills_the_table(estimator, tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    legal = legal_of(model)
    rows = meter_of(model, tmp_path, quantizer="rtn", estimator=estimator).rows(legal)
    assert {row.layer: tuple(cost.scheme for cost in row.costs) for row in rows} == legal
    assert sum(cost.loss for row in rows for cost in row.costs) > 0
    for row in rows:
        two_bits, kept = row.costs[0], row.costs[-1]
        assert kept.loss == kept.standard_error == 0
        assert two_bits.loss >= row.costs[1].loss >= row.costs[-2].loss >= 0
        assert two_bits.standard_error <= two_bits.loss


def test_estimators_share_what_is_rendered(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    first = meter_of(model, tmp_path)
    rows = first.rows(legal_of(model))
    times = {path: path.stat().st_mtime_ns for path in first.store.folder.rglob("*.safetensors")}
    second = meter_of(model, tmp_path, estimator="fisher_diagonal")
    others = second.rows(legal_of(model))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [row.costs[0].loss for row in others] != [row.costs[0].loss for row in rows]
    assert first.rows(legal_of(model)) == rows


def test_schemes_that_noise_cannot_tell_apart_are_named():
    layer = Layer(name="a", kind=Kind.LINEAR, shape=(4, 8))
    by_sequence = np.random.default_rng(0).gamma(1.0, size=32)
    found = {
        "int2": by_sequence * 2,
        "int3": by_sequence,
        "int4": np.roll(by_sequence, 3) * 1.02,  # hardly more, and on other sequences
        "bf16": np.zeros(32),
    }
    losses = {
        Scheme.parse(name): Losses(loss=values.mean(), by_sequence=values)
        for name, values in found.items()
    }
    row = row_of(layer, losses)
    named = {str(cost.scheme): [str(s) for s in cost.inseparable] for cost in row.costs}
    assert named == {"int2": [], "int3": ["int4"], "int4": ["int3"], "bf16": []}
    for cost in row.costs:
        assert cost.standard_error == losses[cost.scheme].standard_error
        assert cost.bytes == scheme_bytes(layer.shape, cost.scheme)


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
        meter = meter_of(model, tmp_path)
        warn_of_unreached(meter, find_layers(model))
    rows = meter.rows(legal_of(model))
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
    warn_of_unreached(meter, find_layers(model))
    rows = [row for row in meter.rows(legal_of(model)) if row.layer.kind is Kind.EXPERTS]
    for row in rows:
        statistics = read(meter, row.layer)
        assert statistics.reached.tolist() == [True, True, False]
        [packed] = meter.packed(row.layer, [row.costs[0].scheme])
        error = packed.decode() - weight_of(model, row.layer)
        completed = statistics.completed()
        squares = completed["covariance"]["squares"].sum(0)
        by_output = squares / squares.mean(-1, keepdim=True)
        by_row = ((error @ discounted(completed.covariance)) * error).sum(-1)
        per_expert = (by_row * by_output).sum(-1)
        assert per_expert[2] > 0.1 * per_expert[:2].mean()
        total = per_expert.sum().item() / 2
        assert row.costs[0].loss == pytest.approx(total, rel=1e-4)
    assert (
        "1 of 3 experts of model.layers.0.mlp.experts.gate_up_proj: the mean of the" in caplog.text
    )


def test_of_experts_that_are_layers_the_mean_stands_for_one_that_was_never_chosen(
    tiny_model, tmp_path, caplog
):
    model = tiny_model("gpt-oss")
    for block in model.model.layers:
        block.mlp.router.bias.copy_(torch.tensor([0.0, 0.0, -99.0]))
    layers = find_layers(model, experts="each")
    meter = meter_of(model, tmp_path, experts="each")
    warn_of_unreached(meter, layers)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 4
    assert told[0].startswith(
        "Calibration never reached 1 of 3 experts of model.layers.0.mlp.experts.gate_up_proj: the "
        "mean of the others stands in."
    )
    of_tensor = [one for one in layers if one.parameter.endswith("layers.1.mlp.experts.down_proj")]
    beside = [read(meter, layer).covariance for layer in of_tensor[:2]]
    stands_in = meter.statistics["data"].completed(of_tensor[2], ["covariance"]).covariance
    torch.testing.assert_close(stands_in, torch.stack(beside).mean(0))


@pytest.mark.parametrize("estimator", MODEL_ESTIMATORS)
def test_a_judgement_cut_short_goes_on_and_says_the_same(estimator, tiny_model, tmp_path):
    """What depends on all that is judged together is judged together again."""
    menu = ("int2g32", "int4g32")

    def costs(folder: Path, lost: int) -> tuple:
        model = tiny_model("llama", torch.bfloat16)
        settings = {"schemes": menu, "workdir": folder, "quantizer": "rtn", "estimator": estimator}
        settings["sizes"] = Sizes(calibration=3, search=1, held_out=1, length=12)
        rows = measure(model, **settings).rows
        shards = sorted(folder.rglob("costs/*/*/*.json"))
        for shard in shards[::lost] if lost else ():
            shard.unlink()
        return rows if not lost else measure(model, **settings).rows

    assert costs(tmp_path / "cut", 3) == costs(tmp_path / "whole", 0)


def test_an_interrupt_of_single_swaps_leaves_what_was_found(tiny_model, tmp_path):
    model = tiny_model("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = {"schemes": ("int2g32", "int4g32"), "quantizer": "rtn", "estimator": "single_swaps"}
    settings["sizes"] = Sizes(calibration=3, search=1, held_out=1, length=12)
    expected = measure(model, workdir=tmp_path / "whole", **settings).rows
    layers, swaps = len(expected), []

    def told(stage: str, done: int, total: int) -> None:
        if stage == "swaps":
            swaps.append((done, total))
        # Within the fourth layer: after the 3 sequences themselves, 2 swaps of each a layer.
        if len(swaps) == 3 + 3 * 6 + 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, workdir=tmp_path / "cut", progress=told, **settings)
    assert [done for done, _ in swaps] == list(range(len(swaps)))  # it moves within a layer
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert len(list((tmp_path / "cut").rglob("costs/*/*/*.json"))) == 3 * 2
    swaps[:] = [(0, 0)] * 100
    assert measure(model, workdir=tmp_path / "cut", progress=told, **settings).rows == expected
    # What is left is swapped, and no more.
    assert swaps[-1] == (3 + (layers - 3) * 6, 3 + (layers - 3) * 6)
