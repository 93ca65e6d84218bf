"""Predicted losses against the true increase of KL, and their standard errors."""

import pytest
import torch
from torch import Tensor, nn

from bitplan.calibration import sample_tokens
from bitplan.errors import InputError
from bitplan.models import eager_experts, find_layers, weight_of
from bitplan.schema import Kind, Layer
from bitplan.sensitivity import ESTIMATORS, gather, get_estimator
from bitplan.sensitivity.estimators import estimate
from bitplan.sensitivity.statistics import LayerStatistics


def errors_of(layer: Layer, weight: Tensor, draws: int, size: float = 0.02) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    scale = size * weight.std()
    return [scale * torch.randn(layer.shape, generator=generator) for _ in range(draws)]


@torch.no_grad()
def kl_of(model: nn.Module, layer: Layer, error: Tensor, tokens: Tensor) -> float:
    """Mean KL(model || model with the error added), nats per token, in float64."""
    weight = weight_of(model, layer)
    original = weight.clone()
    with eager_experts(model):
        told = model(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
        weight.add_(error)
        found = model(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
    weight.copy_(original)
    return (told.exp() * (told - found)).sum(-1).mean().item()


@pytest.mark.parametrize(
    ("name", "layer_name", "tolerance"),
    [
        # The head's gradients are those of the formula itself; what is left is sampling.
        ("llama", "lm_head", 0.15),
        # Elsewhere the correlations between tokens and between outputs are left out.
        ("llama", "model.layers.1.mlp.down_proj", 0.4),
        ("llama", "model.layers.0.self_attn.v_proj", 0.4),
        ("gpt2", "transformer.h.0.mlp.c_fc", 0.4),
        ("mixtral", "model.layers.1.mlp.experts.down_proj", 0.4),
        ("gemma", "model.embed_tokens", 0.4),
    ],
)
@pytest.mark.parametrize("estimator", ["gradient_covariance", "fisher_diagonal"])
def test_the_loss_is_the_increase_of_kl(
    name, layer_name, tolerance, estimator, tiny_model, tmp_path
):
    model = tiny_model(name)
    tokens = sample_tokens(model, 128, 24)
    layer = next(one for one in find_layers(model) if one.name == layer_name)
    statistics = gather(model, [layer], tokens, tmp_path / "found", fisher=True)
    weight = weight_of(model, layer).clone()
    predicted, true = 0.0, 0.0
    exact = tiny_model(name, torch.float64)
    for error in errors_of(layer, weight, 6):
        predicted += estimate(
            estimator, error, weight, statistics[layer.name], statistics.tokens
        ).loss
        true += kl_of(exact, layer, error.double(), tokens)
    assert predicted == pytest.approx(true, rel=tolerance)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_twice_the_error_is_four_times_the_loss(estimator, tiny_model, tmp_path):
    model = tiny_model("mixtral")
    tokens = sample_tokens(model, 32, 24)
    found = gather(model, find_layers(model), tokens, tmp_path / "found", fisher=True)
    for layer in find_layers(model):
        weight, statistics = weight_of(model, layer), found[layer.name]
        [error] = errors_of(layer, weight, 1)
        one = estimate(estimator, error, weight, statistics, found.tokens)
        two = estimate(estimator, 2 * error, weight, statistics, found.tokens)
        none = estimate(estimator, 0 * error, weight, statistics, found.tokens)
        assert two.loss == pytest.approx(4 * one.loss, rel=1e-5)
        assert two.standard_error == pytest.approx(4 * one.standard_error, rel=1e-5)
        assert none.loss == none.standard_error == 0
        assert one.loss > 0


def test_standard_errors_cover_the_spread_between_samples_and_shrink(tiny_model, tmp_path):
    model = tiny_model("llama")
    layer = next(one for one in find_layers(model) if one.name.endswith("1.mlp.up_proj"))
    weight = weight_of(model, layer)
    [error] = errors_of(layer, weight, 1)
    tokens = sample_tokens(model, 12 * 80, 32)

    def estimate_of(part: Tensor, index: int):
        found = gather(model, [layer], part, tmp_path / f"{index}-{len(part)}")
        statistics = found[layer.name]
        return estimate("gradient_covariance", error, weight, statistics, found.tokens)

    parts = [estimate_of(part, index) for index, part in enumerate(tokens.split(80))]
    losses = torch.tensor([part.loss for part in parts])
    claimed = torch.tensor([part.standard_error for part in parts]).square().mean().sqrt()
    # The few probes add noise of their own where, as here, batches hardly differ.
    assert 1 < claimed / losses.std() < 6
    whole = estimate_of(tokens, 0)
    assert whole.standard_error == pytest.approx(claimed.item() / 12**0.5, rel=0.5)
    assert whole.loss == pytest.approx(losses.mean().item(), rel=1e-4)


def test_one_batch_tells_no_spread(tiny_model, tmp_path):
    model = tiny_model("llama")
    layer = find_layers(model)[0]
    found = gather(model, [layer], sample_tokens(model, 4, 24), tmp_path / "found")
    weight = weight_of(model, layer)
    [error] = errors_of(layer, weight, 1)
    one = estimate("gradient_covariance", error, weight, found[layer.name], found.tokens)
    assert one.standard_error == one.loss > 0


def statistics_of(shape: tuple[int, ...], reached: list[int]) -> tuple[Layer, LayerStatistics]:
    layer = Layer(name="experts", kind=Kind.EXPERTS, shape=shape)
    statistics = LayerStatistics.zeros(layer, batches=2, fisher=True)
    generator = torch.Generator().manual_seed(8)
    for batch in range(2):
        for expert in reached:
            inputs = torch.randn(20, shape[2], generator=generator)
            slopes = torch.randn(20, shape[1], generator=generator)
            statistics.add(inputs, slopes, batch=batch, expert=expert)
    return layer, statistics


@pytest.mark.parametrize("estimator", ["gradient_covariance", "fisher_diagonal"])
def test_an_expert_that_was_never_chosen_costs_what_the_others_cost(estimator):
    layer, statistics = statistics_of((4, 5, 6), reached=[0, 2, 3])
    completed = statistics.completed()
    assert statistics.reached.tolist() == [True, False, True, True]
    assert completed.reached.all()
    weight = torch.ones(layer.shape)
    losses = []
    for expert in range(4):
        error = torch.zeros(layer.shape)
        error[expert] = 0.1
        losses.append(estimate(estimator, error, weight, completed, 40).loss)
    others = (losses[0] + losses[2] + losses[3]) / 3
    assert losses[1] == pytest.approx(others, rel=1e-5)
    again = estimate(estimator, 0 * weight + 0.1, weight, completed, 40)
    assert 0 < again.standard_error < again.loss


def test_what_was_reached_stays_as_it_is():
    _, statistics = statistics_of((3, 5, 6), reached=[0, 1, 2])
    assert statistics.completed() is statistics
    _, statistics = statistics_of((3, 5, 6), reached=[])
    assert statistics.completed() is statistics


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_layer_that_was_never_reached_costs_its_relative_error(estimator):
    _, statistics = statistics_of((3, 5, 6), reached=[])
    weight = torch.full((3, 5, 6), 2.0)
    found = estimate(estimator, 0.1 * weight, weight, statistics, 40)
    assert found.loss == pytest.approx(0.01)
    assert found.standard_error == found.loss


def test_an_unknown_estimator_is_told_those_there_are():
    with pytest.raises(InputError, match=r"'hessian'.*gradient_covariance, fisher_diagonal"):
        get_estimator("hessian")
