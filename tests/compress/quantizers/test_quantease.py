from itertools import pairwise

import pytest
import torch

from bitplan.compress import render
from bitplan.compress.curvature import Curvature
from bitplan.compress.planes import planes
from bitplan.compress.quantizers.gptq import codes_and_grids
from bitplan.compress.quantizers.quantease import descend
from bitplan.schema import Scheme
from rendered import correlated, expected_loss, one, random

NAMES = ["int2g64", "int3g64", "int4", "int3g64s", "nf4g64", "mxfp4", "nvfp4", "bitmod3g64"]
NAMES += ["ternary2g64", "binary2g64d"]
SPARSE = ["int4g64+2:4", "int3g64+50%", "nf4g64+2:4"]


@pytest.mark.parametrize("name", [*NAMES, *SPARSE])
def test_it_is_better_than_gptq(name):
    ratios = []
    for seed in range(4):
        weight, covariance = random(24, 192, seed=seed), correlated(192, seed=seed)
        gptq, quantease = (
            expected_loss(weight, one(weight, name, quantizer, covariance), covariance)
            for quantizer in ("gptq", "quantease")
        )
        ratios.append(quantease / gptq)
    assert max(ratios) < 1
    assert sum(ratios) / len(ratios) < 0.97


@pytest.mark.parametrize("name", ["int2g32", "nf3g32", "int3g32+50%"])
@pytest.mark.parametrize("shrinkage", [0.0, 0.4])
def test_a_sweep_never_raises_the_loss_and_ends_where_no_column_gains(name, shrinkage):
    scheme, weight = Scheme.parse(name), random(7, 150)
    curvature = Curvature(covariance=correlated(150), shrinkage=shrinkage)
    [plane] = planes(weight, [scheme], weight.abs().max())
    original = plane.work.clone()
    codes, grids = codes_and_grids(plane, curvature.importance, curvature.inverse_factor)

    def loss() -> float:
        [packed] = plane.packed(codes, grids)
        error = packed.decode() - weight
        return ((error @ curvature.matrix) * error).sum().item()

    losses = [loss()]
    for _ in range(40):
        descend(plane, original.clone(), codes, grids, curvature.matrix, sweeps=1)
        losses.append(loss())
        before = codes.clone()
    assert all(after <= earlier * (1 + 1e-5) for earlier, after in pairwise(losses))
    descend(plane, original.clone(), codes, grids, curvature.matrix, sweeps=1)
    assert torch.equal(codes, before)


def test_without_statistics_it_is_clip():
    weight = random(10, 100)
    found, clip = (one(weight, "int3g32", quantizer) for quantizer in ("quantease", "clip"))
    assert torch.equal(found.decode(), clip.decode())


def test_experts_are_rendered_each_with_its_own():
    weight = random(3, 8, 64)
    covariance = torch.stack([correlated(64, seed=seed) for seed in range(3)])
    scheme = Scheme.parse("int3g32")
    [all_of_them] = render(weight, [scheme], quantizer="quantease", covariance=covariance).values()
    for index in range(3):
        alone = one(weight[index], "int3g32", "quantease", covariance[index])
        assert torch.equal(all_of_them.decode()[index], alone.decode())
