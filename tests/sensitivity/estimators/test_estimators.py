"""What holds of every estimator, and predicted losses against the true increase of KL."""

import pytest
import torch
from torch import Tensor, nn

from bitplan.calibration import sample_tokens
from bitplan.errors import InputError
from bitplan.models import eager_experts, find_layers, weight_of
from bitplan.schema import Layer
from bitplan.sensitivity import LAYER_ESTIMATORS, get_estimator

COUNTS_OUTLIERS = {"outlier_ratio"}
"""These call an error free where a layer has no outliers, as the tiny random ones do not."""


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
def test_the_loss_is_the_increase_of_kl(name, layer_name, tolerance, tiny_model, gathered, part_of):
    model = tiny_model(name)
    tokens = sample_tokens(model, 64, 24)
    layer = next(one for one in find_layers(model) if one.name == layer_name)
    weight = weight_of(model, layer).clone()
    errors, exact = errors_of(layer, weight, 6), tiny_model(name, torch.float64)
    true = sum(kl_of(exact, layer, error.double(), tokens) for error in errors)
    for estimator in ("gradient_covariance", "fisher_diagonal", "fisher_sampled"):
        judge = get_estimator(estimator)
        statistics = gathered(model, tokens, [layer], moments=judge.moments, labels=judge.labels)[
            layer.name
        ]
        predicted = sum(judge.judge(part_of(error, weight, statistics)).loss for error in errors)
        assert predicted == pytest.approx(true, rel=tolerance), estimator


@pytest.mark.parametrize("name", ["mixtral", "llama-tied"])
def test_twice_the_error_is_four_times_the_loss(name, tiny_model, some_tokens, gathered, part_of):
    model, tokens = tiny_model(name), some_tokens()
    found = {labels: gathered(model, tokens, labels=labels) for labels in ("data", "sampled")}
    for layer in find_layers(model):
        weight = weight_of(model, layer)
        [error] = errors_of(layer, weight, 1)
        for estimator, judge in LAYER_ESTIMATORS.items():
            statistics = found[judge.labels][layer.name].completed()
            one, two, none = (
                judge.judge(part_of(times * error, weight, statistics)) for times in (1, 2, 0)
            )
            assert none.loss == none.standard_error == 0
            assert one.loss > 0 or estimator in COUNTS_OUTLIERS
            # A logarithm is the square's first order alone.
            tolerance = 1e-2 if estimator == "sqnr" else 1e-5
            assert two.loss == pytest.approx(4 * one.loss, rel=tolerance), estimator
            assert two.standard_error == pytest.approx(4 * one.standard_error, rel=tolerance)
            assert one.standard_error < one.loss or estimator in COUNTS_OUTLIERS


@pytest.mark.parametrize("name", LAYER_ESTIMATORS)
def test_an_estimator_names_what_it_reads(name):
    estimator = get_estimator(name)
    assert estimator is LAYER_ESTIMATORS[name]
    assert estimator.labels in {"data", "sampled"}


@pytest.mark.parametrize("name", LAYER_ESTIMATORS)
def test_an_expert_that_was_never_chosen_costs_about_what_the_others_cost(
    name, some_sequences, statistics_of, part_of
):
    statistics = statistics_of((4, 5, 6), some_sequences, reached=[0, 2, 3]).completed()
    weight, losses = torch.ones(4, 5, 6), []
    weight[0, 0, 0] = 100  # an outlier
    for expert in range(4):
        error = torch.zeros(4, 5, 6)
        error[expert] = 0.1
        losses.append(get_estimator(name).judge(part_of(error, weight, statistics)).loss)
    # A product of means is not the mean of products, so factors are only near.
    tolerance = 0.5 if name == "kronecker_fisher" else 1e-5
    others = (losses[0] + losses[2] + losses[3]) / 3
    assert others > 0
    assert losses[1] == pytest.approx(others, rel=tolerance)


def test_an_unknown_estimator_is_told_those_there_are():
    with pytest.raises(InputError, match=r"'hessian'.*gradient_covariance, .*fisher_diagonal"):
        get_estimator("hessian")
