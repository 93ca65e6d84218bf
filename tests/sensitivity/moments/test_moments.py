"""Every moment of every layer against an independent computation, formula by formula."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitplan.models import find_layers
from bitplan.schema import Kind, Layer
from bitplan.sensitivity.moments import MOMENTS

pytestmark = pytest.mark.usefixtures("as_they_are")


def calls_of(layer: Layer, calls: dict, expert: int | None) -> list[tuple[Tensor, Tensor]]:
    names = (layer.name, *layer.tied)
    return [call for name in names for call in calls[name if expert is None else (name, expert)]]


def covariance(layer: Layer, calls: list) -> dict[str, Tensor]:
    rows, columns = layer.shape[-2:]
    sums = {"covariance": torch.zeros(columns, columns), "squares": torch.zeros(rows)}
    if layer.kind is Kind.EMBEDDING:
        sums["lookups"] = torch.zeros(rows)
    for inputs, slopes in calls:
        if inputs.dim() == 1:
            sums["covariance"] += torch.diag(slopes.square().sum(0)) / rows
            for token in inputs.tolist():
                sums["lookups"][token] += 1
        else:
            weight = slopes.square().mean(1)
            sums["covariance"] += torch.einsum("t,ti,tj->ij", weight, inputs, inputs)
            sums["squares"] += torch.einsum("to,to->o", slopes, slopes)
    return sums


def inputs(layer: Layer, calls: list) -> dict[str, Tensor]:
    sums = torch.zeros(layer.shape[-1], layer.shape[-1])
    counts = torch.tensor(float(sum(len(slopes) for _, slopes in calls)))
    for given, slopes in calls:
        is_lookup = given.dim() == 1
        # Each token is an input of one, at one row.
        sums += len(slopes) * torch.eye(layer.shape[-1]) if is_lookup else given.T @ given
    return {"inputs": sums, "counts": counts}


def fisher(layer: Layer, calls: list) -> dict[str, Tensor]:
    sums = torch.zeros(layer.shape[-2:])
    for given, slopes in calls:
        if given.dim() == 1:
            for token, slope in zip(given.tolist(), slopes, strict=True):
                sums[token] += slope.square() / 2
                sums += slope.square() / 2 / layer.shape[0]
        else:
            sums += torch.einsum("to,ti->oi", slopes.square(), given.square())
    return {"fisher": sums}


def outputs(layer: Layer, calls: list) -> dict[str, Tensor]:
    rows = layer.shape[-2]
    whole, diagonal = torch.zeros(rows, rows), torch.zeros(rows)
    for given, slopes in calls:
        if given.dim() == 1:
            for token, slope in zip(given.tolist(), slopes, strict=True):
                diagonal[token] += slope.square().mean()
        else:
            whole += torch.einsum("to,tp->op", slopes, slopes)
    is_embedding = layer.kind is Kind.EMBEDDING
    return {"outputs": diagonal + whole.diagonal() if is_embedding else whole}


BY_HAND: dict[str, Callable] = {
    "covariance": covariance,
    "inputs": inputs,
    "fisher": fisher,
    "outputs": outputs,
}


OF_EACH_SEQUENCE = {"diagonals", "sketches", "lookup", "columns", "rows"}
"""What only tells how a moment varies from sequence to sequence."""


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "mixtral"])
def test_the_moments_are_those_computed_by_hand(
    name, tiny_model, some_tokens, gathered, by_hand, close
):
    model, tokens = tiny_model(name), some_tokens()
    layers = find_layers(model)
    found = gathered(model, tokens, layers, moments=tuple(BY_HAND))
    calls = by_hand(tiny_model(name), tokens)
    for layer in layers:
        statistics = found[layer.name]
        assert statistics.tokens == tokens.numel()
        for expert in range(layer.shape[0]) if layer.kind is Kind.EXPERTS else [None]:
            at = () if expert is None else (expert,)
            mine = calls_of(layer, calls, expert)
            assert statistics.rows[at] == sum(len(slopes) for _, slopes in mine)
            assert statistics.reached[at]
            for moment, formula in BY_HAND.items():
                tensors = formula(layer, mine)
                assert set(tensors) == set(statistics[moment]) - OF_EACH_SEQUENCE
                for key, tensor in tensors.items():
                    told = statistics[moment][key]
                    told = told.sum(0) if key in MOMENTS[moment].by_sequence else told
                    assert close(told[at], tensor), (layer.name, moment, key)


@pytest.mark.parametrize("name", ["llama-tied", "mixtral"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_is_kept_by_sequence_is_that_of_each_alone(
    name, moment, tiny_model, some_tokens, gathered, close
):
    model, tokens = tiny_model(name), some_tokens(3)
    whole = gathered(model, tokens, moments=[moment])
    for index in range(len(tokens)):
        alone = gathered(model, tokens[index : index + 1], moments=[moment])
        for layer, statistics in whole.items():
            tensors, own = statistics[moment], alone[layer][moment]
            for key in set(MOMENTS[moment].by_sequence) & set(tensors) - {"sketches"}:
                assert close(tensors[key][index], own[key][0]), (layer, key)
            if moment == "fisher":
                assert close(tensors["columns"][index], own[moment].mean(-2))
                assert close(tensors["rows"][index], own[moment].mean(-1))
                continue
            diagonal = own[moment]
            if moment != "outputs" or "sketches" in own:
                diagonal = diagonal.diagonal(dim1=-2, dim2=-1)
            lookup = tensors["lookup"][index] if "lookup" in tensors else 0
            assert close(tensors["diagonals"][index] + lookup, diagonal), layer


@pytest.mark.parametrize("name", ["gpt-oss", "llama4"])
def test_experts_are_seen_however_they_are_multiplied(name, tiny_model, some_tokens, gathered):
    model, tokens = tiny_model(name), some_tokens(12, 32)
    layers = [layer for layer in find_layers(model) if layer.kind is Kind.EXPERTS]
    found = gathered(model, tokens, layers)
    assert layers
    for layer in layers:
        statistics, shape = found[layer.name], layer.shape
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 1e-3
        assert statistics.reached.any()
        summed = statistics["covariance"]["covariance"]
        assert summed.shape == (shape[0], shape[2], shape[2])
        # The diagonal Fisher knows each output, H their mean: over random errors they agree.
        by_h = ((weight @ summed) * weight).sum()
        by_fisher = (statistics["fisher"]["fisher"] * weight.square()).sum()
        assert by_h == pytest.approx(by_fisher.item(), rel=0.3)
        # Inputs and outputs are the same calls': the squares of the gradients are one sum.
        squares = statistics["outputs"]["outputs"].diagonal(dim1=-2, dim2=-1)
        assert torch.allclose(squares, statistics["covariance"]["squares"].sum(0), rtol=1e-4)
        assert (statistics["inputs"]["inputs"].diagonal(dim1=-2, dim2=-1) >= 0).all()


def test_a_scaled_embedding_scales_the_errors_of_its_rows(
    tiny_model, some_tokens, gathered, by_hand, close
):
    model, tokens = tiny_model("gemma"), some_tokens()
    [layer] = [one for one in find_layers(model) if one.kind is Kind.EMBEDDING]
    factor = float(model.model.embed_tokens.embed_scale)
    assert factor > 2
    calls = by_hand(tiny_model("gemma"), tokens)
    [(looked_up, slopes)] = calls[layer.name]
    scaled = [(looked_up, slopes * factor), *calls["lm_head"]]
    found = gathered(model, tokens, [layer])[layer.name]
    for moment in ("covariance", "fisher", "outputs"):
        for key, tensor in BY_HAND[moment](layer, scaled).items():
            told = found[moment][key]
            told = told.sum(0) if key in MOMENTS[moment].by_sequence else told
            assert close(told, tensor), (moment, key)
