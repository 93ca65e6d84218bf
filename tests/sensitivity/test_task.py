"""One layer's task: what is rendered, and that row parts are judged as the whole is."""

import pytest
import torch

from bitplan.compress import render
from bitplan.models import find_layers, weight_of
from bitplan.schema import Kind, Layer, Scheme
from bitplan.sensitivity import LAYER_ESTIMATORS, get_estimator, task
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.moments.shrinkage import shrinkage
from bitplan.sensitivity.statistics import LayerStatistics
from bitplan.sensitivity.sums import Sums
from bitplan.sensitivity.task import LayerTask, run_task
from discounted import discounted

SCHEMES = tuple(map(Scheme.parse, ("int2", "int4", "int8s", "bf16")))


def task_of(layer: Layer, weight: torch.Tensor, statistics: LayerStatistics, **more) -> LayerTask:
    settings = {
        "schemes": SCHEMES,
        "known": {},
        "quantizer": "rtn",
        "rendering": None,
        "estimator": get_estimator("gradient_covariance"),
    }
    return LayerTask(layer=layer, weight=weight, statistics=statistics, **settings | more)


@pytest.fixture
def statistics(tiny_model, some_tokens, gathered) -> dict:
    """(layer, weight, statistics) of three kinds of layers, by labels."""
    found = {}
    for name, kind in (
        ("llama-tied", "linear"),
        ("llama-tied", "embedding"),
        ("mixtral", "experts"),
    ):
        model = tiny_model(name, torch.bfloat16)
        layer = next(one for one in find_layers(model) if one.kind == kind)
        for labels in ("data", "sampled"):
            of_layer = gathered(model, some_tokens(4), [layer], labels=labels)[layer.name]
            found[kind, labels] = (layer, weight_of(model, layer), of_layer.completed())
    return found


@pytest.mark.parametrize("kind", ["linear", "embedding", "experts"])
def test_rows_are_judged_in_parts_as_the_whole_is(kind, statistics, monkeypatch):
    for name, estimator in LAYER_ESTIMATORS.items():
        layer, weight, of_layer = statistics[kind, estimator.labels]
        one = task_of(layer, weight, of_layer, estimator=estimator)
        monkeypatch.setattr(task, "WEIGHTS_AT_ONCE", weight.numel())
        whole = run_task(one).losses
        # Parts of 7 rows: they do not divide what there is.
        monkeypatch.setattr(task, "WEIGHTS_AT_ONCE", 7 * weight.numel() // weight.shape[-2])
        parts = run_task(one).losses
        for scheme in SCHEMES:
            assert parts[scheme].loss == pytest.approx(whole[scheme].loss, rel=1e-5), name
            # How much of a sketch's noise to take out is told part by part, here of 7 rows.
            error = whole[scheme].standard_error
            assert parts[scheme].standard_error == pytest.approx(error, rel=0.2), name
            assert parts[scheme].by_sequence.shape == whole[scheme].by_sequence.shape


def test_each_scheme_is_judged_as_it_is_rendered(statistics):
    layer, weight, of_layer = statistics["linear", "data"]
    h = of_layer.covariance
    result = run_task(task_of(layer, weight, of_layer, quantizer="gptq", rendering=of_layer))
    assert list(result.rendered) == list(result.losses) == list(SCHEMES)
    share = shrinkage(of_layer["covariance"])
    expected = render(weight, SCHEMES, quantizer="gptq", covariance=h, shrinkage=share)
    for scheme in SCHEMES:
        ours, theirs = result.rendered[scheme], expected[scheme]
        assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)
        error = theirs.decode(weight.dtype).float() - weight.float()
        squares = of_layer["covariance"]["squares"].sum(0)
        by_row = ((error @ discounted(h)) * error).sum(-1)
        loss = 0.5 * (by_row * squares / squares.mean()).sum().item()
        assert result.losses[scheme].loss == pytest.approx(loss, rel=1e-4, abs=1e-12)
        assert result.losses[scheme].is_guess is False


def test_what_is_known_is_not_rendered_but_judged(statistics):
    layer, weight, of_layer = statistics["linear", "data"]
    known = render(weight, SCHEMES, quantizer="gptq", covariance=of_layer.covariance)
    known = {scheme: known[scheme] for scheme in SCHEMES[:2]}
    result = run_task(task_of(layer, weight, of_layer, known=known))
    assert list(result.rendered) == list(SCHEMES[2:])
    alone = run_task(task_of(layer, weight, of_layer))
    assert result.losses[SCHEMES[0]].loss < alone.losses[SCHEMES[0]].loss  # gptq's, not rtn's
    assert result.losses[SCHEMES[2]].loss == alone.losses[SCHEMES[2]].loss


def test_without_an_estimator_it_only_renders(statistics):
    layer, weight, of_layer = statistics["experts", "data"]
    result = run_task(task_of(layer, weight, of_layer, estimator=None))
    assert list(result.rendered) == list(SCHEMES)
    assert result.losses == {}


@pytest.mark.parametrize("name", LAYER_ESTIMATORS)
@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_a_layer_that_was_never_reached_costs_its_relative_error(name, at_once, monkeypatch):
    monkeypatch.setattr(task, "WEIGHTS_AT_ONCE", at_once)
    layer = Layer(name="experts", kind=Kind.EXPERTS, shape=(3, 5, 6))
    moments = {}
    for moment in MOMENTS:
        moments[moment] = Sums.zeros(moment, layer, sequences=2)
        for sequence in range(2):
            moments[moment].add([], sequence=sequence, tokens=20)
    of_layer = LayerStatistics(moments=moments).completed()
    weight = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))
    one = task_of(layer, weight, of_layer, estimator=get_estimator(name))
    result = run_task(one)
    for scheme, losses in result.losses.items():
        error = result.rendered[scheme].decode() - weight
        relative = (error.square().sum() / weight.square().sum()).item()
        assert losses.loss == pytest.approx(relative, rel=1e-5)
        assert losses.is_guess
        assert losses.standard_error == losses.loss
