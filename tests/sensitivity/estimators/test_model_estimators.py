"""Estimators that look at the model itself, against the KL that is measured there."""

import logging
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from bitplan.calibration import sample_tokens
from bitplan.compress import render
from bitplan.errors import ModelError
from bitplan.models import eager_experts, find_layers, weight_of
from bitplan.schema import Kind, Layer, Scheme
from bitplan.sensitivity import MODEL_ESTIMATORS, Bench, Shards, WholeModel
from bitplan.sensitivity.estimators.hessian_trace import _traces
from bitplan.sensitivity.estimators.operating_point import OperatingPoint
from bitplan.sensitivity.estimators.output_fisher import KlFisher, OutputFisher

SCHEMES = tuple(map(Scheme.parse, ("int2g32", "int3g32", "int4g32", "int6g32")))


def bench_of(
    model: nn.Module, tokens: torch.Tensor, labels: str = "data", experts: str = "together"
) -> Bench:
    # Rendered once, from the weights as they are now: estimators swap them.
    packed = {
        layer: render(weight_of(model, layer).clone(), SCHEMES, quantizer="rtn")
        for layer in find_layers(model, experts=experts)
    }

    def decode(layer: Layer, scheme: Scheme) -> torch.Tensor:
        return packed[layer][scheme].decode(torch.float32)

    through = WholeModel(model=model, tokens=tokens, labels=labels)
    return Bench(model=model, tokens=tokens, through=through, decode=decode)


def losses_of(
    name: str, model: nn.Module, tokens: torch.Tensor, experts: str = "together"
) -> dict[tuple[str, str], float]:
    estimator = MODEL_ESTIMATORS[name]
    bench = bench_of(model, tokens, estimator.labels, experts)
    schemes = dict.fromkeys(find_layers(model, experts=experts), SCHEMES)
    found = dict(estimator.judge(bench, schemes))
    assert set(found) == set(schemes)
    for losses in found.values():
        for one in losses.values():
            assert one.loss >= 0
            assert len(one.by_sequence) == len(tokens)
            assert np.mean(one.by_sequence) == pytest.approx(one.loss, abs=1e-9) or one.loss == 0
    return {(layer.name, str(s)): one.loss for layer, by in found.items() for s, one in by.items()}


@torch.no_grad()
def swapped_kl(model: nn.Module, tokens: torch.Tensor, layer: Layer, scheme: Scheme) -> float:
    decode = bench_of(model, tokens).decode
    weight = weight_of(model, layer)
    original = weight.clone()
    run = partial(model, input_ids=tokens, use_cache=False)
    with eager_experts(model):
        told = run().logits.log_softmax(-1)
        weight.copy_(decode(layer, scheme))
        found = run().logits.log_softmax(-1)
        weight.copy_(original)
    return (told.exp() * (told - found)).sum(-1).mean().item()


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
def test_single_swaps_are_those_of_the_whole_model_run_again(name, tiny_model, some_tokens):
    model, tokens = tiny_model(name), some_tokens(3)
    losses = losses_of("single_swaps", model, tokens)
    for layer in find_layers(model):
        expected = swapped_kl(model, tokens, layer, SCHEMES[0])
        assert losses[layer.name, str(SCHEMES[0])] == pytest.approx(expected, rel=1e-3, abs=1e-7)


# The rank of single swaps that each must reach: measured 0.99, 0.98, 0.92, 0.90 and 0.91 on tied
# Llama, and a little less on a mixture of experts.
RANKS = {
    "output_fisher": 0.93,
    "kl_fisher": 0.93,
    "operating_point": 0.85,
    "hessian_trace": 0.75,
    "block_influence": 0.75,
}


@pytest.mark.parametrize("name", ["llama-tied", "mixtral"])
def test_losses_rank_as_measured_swaps_do(name, tiny_model):
    model = tiny_model(name)
    # The Hessian under labels that the model does not expect is another one than the KL's.
    tokens = sample_tokens(model, 16, 24)
    truth = losses_of("single_swaps", model, tokens)
    for estimator, least in RANKS.items():
        found = losses_of(estimator, model, tokens)
        rank = spearmanr([truth[key] for key in truth], [found[key] for key in truth]).statistic
        assert rank > least, (estimator, rank)


@pytest.mark.parametrize("estimator", MODEL_ESTIMATORS)
@pytest.mark.parametrize("name", ["llama-tied", "mixtral"])
def test_the_model_is_given_back(estimator, name, tiny_model, some_tokens):
    model = tiny_model(name).requires_grad_(True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses_of(estimator, model, some_tokens(2))
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all("forward" not in vars(module) for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("estimator", MODEL_ESTIMATORS)
def test_each_expert_is_judged_on_its_own(estimator, tiny_model, some_tokens):
    model, tokens = tiny_model("gpt-oss"), some_tokens(4)
    for block in model.model.layers:
        block.mlp.router.bias.copy_(torch.tensor([9.0, 0.0, -99.0]))
    losses = losses_of(estimator, model, tokens, experts="each")
    name, scheme = "model.layers.1.mlp.experts.down_proj", str(SCHEMES[0])
    first, second, last = (losses[f"{name}.{number}", scheme] for number in range(3))
    if estimator != "block_influence":  # which knows of blocks alone
        assert first > 10 * second >= 0
        assert last == 0  # no token was given to it


def test_traces_of_experts_add_up_to_that_of_all(tiny_model, some_tokens):
    model, tokens = tiny_model("mixtral"), some_tokens(2)
    bench = bench_of(model, tokens)
    together = _traces(bench, list(find_layers(model)))
    each = _traces(bench, list(find_layers(model, experts="each")))
    sums = dict.fromkeys([layer.parameter for layer in each], 0.0)
    for layer, values in each.items():
        sums[layer.parameter] += values
    for layer, values in together.items():
        assert sums[layer.parameter] == pytest.approx(values, rel=1e-4)


def test_output_fisher_is_its_formula(tiny_model, some_tokens):
    """One token a sketch leaves no noise of the signs."""
    model, tokens = tiny_model("llama"), some_tokens(2)
    bench = bench_of(model, tokens)
    layers = [layer for layer in find_layers(model) if layer.kind is Kind.LINEAR]
    schemes = dict.fromkeys(layers, SCHEMES[:1])
    found = dict(OutputFisher(tokens_a_sketch=1).judge(bench, schemes))
    sums = dict.fromkeys(layers, 0.0)
    for _, seen in bench.through.run(layers):
        for one in seen or ():
            weight = weight_of(model, one.layer)
            error = bench.decode(one.layer, SCHEMES[0]) - weight
            change = (one.gradients * (one.inputs @ error.T)).sum(1)
            sums[one.layer] += change.square().sum().item() / (2 * tokens.numel())
    for layer in layers:
        assert found[layer][SCHEMES[0]].loss == pytest.approx(sums[layer], rel=1e-4)


def test_sketches_are_unbiased(tiny_model, some_tokens):
    model, tokens = tiny_model("llama"), some_tokens(60)
    bench = bench_of(model, tokens)
    layer = next(one for one in find_layers(model) if one.name.endswith("0.mlp.up_proj"))
    exact, sketched = (
        dict(OutputFisher(tokens_a_sketch=count).judge(bench, {layer: SCHEMES[:1]}))[layer][
            SCHEMES[0]
        ]
        for count in (1, 8)
    )
    noise = float(np.std(sketched.by_sequence - exact.by_sequence, ddof=1)) / len(tokens) ** 0.5
    assert abs(sketched.loss - exact.loss) < 3 * noise
    assert noise < 0.3 * exact.loss


def test_layers_judged_in_parts_are_those_judged_together(tiny_model, some_tokens, monkeypatch):
    model, tokens = tiny_model("llama-tied"), some_tokens(3)
    whole = losses_of("output_fisher", model, tokens)
    module = "bitplan.sensitivity.estimators.output_fisher"
    monkeypatch.setattr("bitplan.memory.SHARE_AT_ONCE", 1e-9)
    monkeypatch.setattr(f"{module}.SKETCHES_AT_ONCE", 1)
    assert losses_of("output_fisher", model, tokens) == pytest.approx(whole, rel=1e-4)


def test_kl_fisher_sees_tokens_that_err_together(tiny_model, some_tokens):
    """Its mean over many sequences is near the measured KL, correlations and all."""
    model, tokens = tiny_model("llama"), some_tokens(80)
    bench = bench_of(model, tokens, "sampled")
    layer = next(one for one in find_layers(model) if one.name.endswith("1.mlp.down_proj"))
    found = dict(KlFisher().judge(bench, {layer: SCHEMES[2:3]}))[layer][SCHEMES[2]]
    assert found.loss == pytest.approx(swapped_kl(model, tokens, layer, SCHEMES[2]), rel=0.35)


def test_an_operating_point_judges_changes_from_its_plan(tiny_model, some_tokens):
    model, tokens = tiny_model("llama"), some_tokens(16)
    layers = find_layers(model)
    low = {layer.name: SCHEMES[1] for layer in layers}
    schemes = dict.fromkeys(layers, SCHEMES)
    here = dict(OperatingPoint(plan=low).judge(bench_of(model, tokens), schemes))
    for losses in here.values():
        values = [losses[scheme].loss for scheme in SCHEMES]
        assert values[0] >= values[1] >= values[-1] >= 0


def break_on(model: nn.Module, token: int) -> None:
    """Let a model of llama overflow on sequences that hold a token."""
    holds = []

    def look(_: nn.Module, args: tuple) -> None:
        holds[:] = [bool((args[0] == token).any())]

    def overflow(_: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return output * torch.inf if holds[0] else output

    model.model.embed_tokens.register_forward_pre_hook(look)
    model.model.norm.register_forward_hook(overflow)


@pytest.mark.parametrize("estimator", MODEL_ESTIMATORS)
def test_a_sequence_that_is_not_finite_is_left_out_and_named(
    estimator, tiny_model, some_tokens, caplog
):
    model, tokens = tiny_model("llama"), some_tokens(3)
    expected = losses_of(estimator, model, tokens[:2])
    tokens[2, 7] = 2  # no other sequence has this token
    break_on(model, 2)
    labels = MODEL_ESTIMATORS[estimator].labels
    schemes = dict.fromkeys(find_layers(model), SCHEMES)
    with caplog.at_level(logging.WARNING):
        found = dict(MODEL_ESTIMATORS[estimator].judge(bench_of(model, tokens, labels), schemes))
    assert caplog.text.count("Calibration sequence 2 is left out") == 1
    for layer, losses in found.items():
        for scheme, one in losses.items():
            assert len(one.by_sequence) == 2
            assert one.loss == pytest.approx(expected[layer.name, str(scheme)], rel=1e-5)


@pytest.mark.parametrize("estimator", MODEL_ESTIMATORS)
def test_a_model_that_is_finite_nowhere_is_refused(estimator, tiny_model, some_tokens):
    model, tokens = tiny_model("llama"), some_tokens(2)
    tokens[:, 3] = 2
    break_on(model, 2)
    with pytest.raises(ModelError, match="On every calibration sequence the model's outputs are"):
        losses_of(estimator, model, tokens)


@pytest.mark.parametrize("estimator", ["single_swaps", "hessian_trace", "output_fisher"])
def test_a_scheme_that_overflows_is_named(estimator, tiny_model, some_tokens, tmp_path):
    model = tiny_model("llama")
    bench = bench_of(model, some_tokens(2))
    layer = find_layers(model)[2]

    def decode(one: Layer, scheme: Scheme) -> torch.Tensor:
        return bench.decode(one, scheme) * (torch.inf if scheme == SCHEMES[1] else 1)

    shards = Shards(folder=tmp_path)
    judged = MODEL_ESTIMATORS[estimator].judge(replace(bench, decode=decode), {layer: SCHEMES})
    [(_, losses)] = judged
    shards.put(layer, SCHEMES[0], losses[SCHEMES[0]])
    said = rf"With {layer.name} in {SCHEMES[1]} the loss is not a finite number.*wider.*schemes"
    with pytest.raises(ModelError, match=said):
        shards.put(layer, SCHEMES[1], losses[SCHEMES[1]])


def test_an_operating_point_that_overflows_is_told(tiny_model, some_tokens):
    model = tiny_model("llama")
    bench = bench_of(model, some_tokens(2))
    broken = replace(bench, decode=lambda layer, scheme: bench.decode(layer, scheme) * torch.inf)
    with pytest.raises(ModelError, match="At the operating point the model's logits on sequence 0"):
        dict(OperatingPoint().judge(broken, dict.fromkeys(find_layers(model), SCHEMES)))
