import pytest
import torch

from bitplan.compress.curvature import Curvature
from bitplan.compress.planes import planes
from bitplan.compress.quantizers import discquant as module
from bitplan.compress.quantizers.discquant import discquant
from bitplan.compress.quantizers.gptq import codes_and_grids
from bitplan.schema import Scheme
from rendered import correlated, expected_loss, random

NAMES = ["int2g64", "int3g64", "int4", "int3g64s", "nf4g64", "bitmod3g64", "int3g64+50%"]


def on_gptqs_grids(weight, name, curvature):
    """The nearest values on the grids that GPTQ ends with, where it keeps a weight."""
    scheme = Scheme.parse(name)
    [plane] = planes(weight, [scheme], weight.abs().max())
    original = plane.work.clone()
    codes, grids = codes_and_grids(plane, curvature.importance, curvature.inverse_factor)
    for index, grid in enumerate(grids):
        group = slice(index * plane.group, (index + 1) * plane.group)
        codes[group] = plane.codes(original[group], grid)
    [packed] = plane.packed(codes, grids)
    return packed


@pytest.mark.parametrize("name", NAMES)
def test_it_is_better_than_the_nearest_values_on_the_same_grids(name):
    ratios = []
    for seed in range(3):
        weight, covariance = random(24, 192, seed=seed), correlated(192, seed=seed)
        curvature = Curvature(covariance=covariance)
        [driven] = discquant(weight, [Scheme.parse(name)], curvature)
        nearest = on_gptqs_grids(weight, name, curvature)
        ratios.append(
            expected_loss(weight, driven, covariance) / expected_loss(weight, nearest, covariance)
        )
    assert max(ratios) < 0.9


@pytest.mark.parametrize("name", ["int3g64", "int3g64s", "nf4g64", "int3g64+50%"])
def test_each_weight_gets_one_of_its_two_neighbours(name):
    weight = random(12, 128)
    curvature = Curvature(covariance=correlated(128))
    [driven] = discquant(weight, [Scheme.parse(name)], curvature)
    nearest = on_gptqs_grids(weight, name, curvature)
    changed = driven.decode() != nearest.decode()
    assert 0.02 < changed.float().mean() < 0.5
    errors = [(one.decode() - weight)[changed] for one in (driven, nearest)]
    assert (errors[0].sign() == -errors[1].sign()).all()


def test_without_correlation_weights_are_rounded_to_nearest():
    weight = random(12, 128)
    curvature = Curvature(covariance=torch.diag(torch.rand(128) + 0.1))
    [driven] = discquant(weight, [Scheme.parse("int3g64")], curvature)
    assert torch.equal(driven.decode(), on_gptqs_grids(weight, "int3g64", curvature).decode())


@pytest.mark.parametrize("columns", [1, 5, 150])
def test_steps_are_as_long_as_the_curvature_allows(columns):
    matrix = Curvature(covariance=correlated(columns)).matrix
    scale = matrix.diagonal().rsqrt()
    largest = torch.linalg.eigvalsh(matrix * scale * scale.unsqueeze(1))[-1]
    found = module._largest_curvature(matrix)
    assert largest * 0.999 <= found <= largest * 1.3
