"""Claimed standard errors against exact ones: the estimate with each sequence left out in turn."""

from dataclasses import replace

import numpy as np
import pytest

from bitplan.calibration import sample_tokens
from bitplan.compress import render
from bitplan.models import find_layers, weight_of
from bitplan.schema import Kind, Scheme
from bitplan.sensitivity import get_estimator
from bitplan.sensitivity.moments import MOMENTS, covariance
from bitplan.sensitivity.statistics import LayerStatistics
from bitplan.sensitivity.sums import LEFT_OUT, Sums

SEQUENCES = 16
RATIOS = {
    "gradient_covariance": (0.6, 1.6),
    "grouped_gradient_covariance": (0.6, 1.6),
    "output_error": (0.35, 2.5),
    "fisher_diagonal": (0.85, 1.15),
    "kronecker_fisher": (0.4, 1.9),
}
"""Of claimed to exact: the least and the most of any layer. Those of an output error are the
hundredths that short sequences differ by, which sketches tell least well."""


def without(sums: Sums, own: Sums, at: int) -> Sums:
    """The sums over all sequences but one, whose own are given."""
    tensors = {}
    for name, tensor in sums.tensors.items():
        if name in MOMENTS[sums.moment].by_sequence:
            tensors[name] = tensor.clone()
            tensors[name][at] = 0
        else:
            tensors[name] = tensor - own.tensors[name]
    counts = sums.sequences.clone()
    counts[at] = LEFT_OUT
    return replace(sums, tensors=tensors, sequences=counts, rows=sums.rows - own.rows)


@pytest.fixture(params=[1, covariance.TEMPER], ids=["as it is", "tempered"])
def layers(request, tiny_model, by_hand, statistics_of, monkeypatch) -> list:
    """(weight, error of GPTQ, statistics, those without each sequence) of a model's linears."""
    monkeypatch.setattr(covariance, "TEMPER", request.param)
    model = tiny_model("llama")
    tokens = sample_tokens(model, SEQUENCES, 24)
    calls = [by_hand(tiny_model("llama"), one[None]) for one in tokens]
    found = []
    for layer in find_layers(model):
        if layer.kind is not Kind.LINEAR:
            continue
        pairs, weight = [one[layer.name][0] for one in calls], weight_of(model, layer)
        whole = statistics_of(layer.shape, pairs)
        others = []
        for at, pair in enumerate(pairs):
            own = statistics_of(layer.shape, [pair]).moments
            moments = {name: without(sums, own[name], at) for name, sums in whole.moments.items()}
            others.append(LayerStatistics(moments=moments))
        scheme = Scheme.parse("int3")
        packed = render(weight, [scheme], quantizer="gptq", covariance=whole.covariance)[scheme]
        found.append((weight, packed.decode() - weight, whole, others))
    return found


def test_claimed_errors_are_those_of_the_jackknife(layers, part_of):
    for name, (least, most) in RATIOS.items():
        if covariance.TEMPER != 1 and name != "gradient_covariance":
            continue  # what these read is not tempered
        judge, ratios = get_estimator(name).judge, []
        for weight, error, whole, others in layers:
            found = judge(part_of(error, weight, whole))
            assert found.by_sequence.mean() == pytest.approx(found.loss, rel=1e-9)
            losses = [judge(part_of(error, weight, one)).loss for one in others]
            exact = np.std(losses) * (SEQUENCES - 1) ** 0.5  # Efron and Stein, 1981
            ratios.append(found.standard_error / exact)
        assert 0.87 < np.median(ratios) < 1.15, name
        assert least < min(ratios), name
        assert max(ratios) < most, name


def test_what_sequences_make_of_a_difference_is_paired(layers, part_of):
    judge = get_estimator("gradient_covariance").judge
    for weight, error, whole, _ in layers:
        one, more = (judge(part_of(size * error, weight, whole)) for size in (1.0, 1.005))
        assert more.loss - one.loss < one.standard_error
        assert more.is_separate_from(one)
        assert np.array_equal(judge(part_of(error, weight, whole)).by_sequence, one.by_sequence)
