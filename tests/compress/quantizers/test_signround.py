import pytest
import torch

from bitplan.compress.curvature import Curvature
from bitplan.compress.planes import planes
from bitplan.compress.quantizers.gptq import gptq
from bitplan.compress.quantizers.signround import signround
from bitplan.schema import Scheme
from rendered import correlated, expected_loss, one, random

NAMES = [
    "int2g64",
    "int3g64",
    "int4",
    "int3g64s",
    "nf4g64",
    "mxfp4",
    "nvfp4",
    "bitmod3g64",
    "ternary2g64",
]
OTHERS = ["int3g64d", "binary2g64d", "int4g64+2:4", "int3g64+50%", "nf4g64+2:4"]


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_it_is_better_than_gptq(name):
    ratios = []
    for seed in range(4):
        weight, covariance = random(24, 192, seed=seed), correlated(192, seed=seed)
        gptq, learned = (
            expected_loss(weight, one(weight, name, quantizer, covariance), covariance)
            for quantizer in ("gptq", "signround")
        )
        ratios.append(learned / gptq)
    assert max(ratios) < 1
    assert sum(ratios) / len(ratios) < 0.97


@pytest.mark.parametrize("name", ["int2g32", "int3g32s", "nf4g32", "bitmod3g32", "int3g32+50%"])
@pytest.mark.parametrize("shrinkage", [0.0, 0.4])
def test_no_row_is_worse_than_gptq_leaves_it(name, shrinkage):
    weight = random(7, 150)
    curvature = Curvature(covariance=correlated(150), shrinkage=shrinkage)
    found = []
    for quantizer in (gptq, signround):
        [packed] = quantizer(weight, [Scheme.parse(name)], curvature)
        error = packed.decode() - weight
        found.append(((error @ curvature.matrix) * error).sum(1))
    assert (found[1] <= found[0] * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    "name", ["int2g32", "int3g32s", "nf4g32", "mxfp4", "bitmod3g32", "ternary2g32"]
)
def test_the_ends_of_a_stretched_grid_are_so_many_times_what_they_were(name):
    weight, scheme = random(5, 64), Scheme.parse(name)
    [plane] = planes(weight, [scheme], weight.abs().max())
    group, rows = slice(0, 32), plane.work.shape[1]
    grid = plane.full(group)
    low, high = torch.full((rows,), 0.5), torch.full((rows,), 2.0)
    far = torch.tensor([[-1e9], [1e9]]).expand(2, rows)
    before, after = (
        plane.codes_and_values(far, one)[1][:, :5]
        for one in (grid, plane.stretched(group, grid, low, high))
    )
    factors = torch.tensor([[0.5], [2.0]]) if name == "int2g32" else torch.full((2, 1), 1.25)
    tolerance = 0.5 if name == "mxfp4" else 0.02  # whose scales are powers of two
    torch.testing.assert_close(after, before * factors, rtol=tolerance, atol=0)
    same = plane.stretched(group, grid, torch.ones(rows), torch.ones(rows))
    assert all(torch.equal(*pair) for pair in zip(same, grid, strict=True))


@pytest.mark.parametrize("name", ["int3g32", "int3g32s", "nf4g32"])
def test_factors_go_with_values_as_stretching_does(name):
    weight, scheme = random(5, 32).double(), Scheme.parse(name)
    [plane] = planes(weight, [scheme], weight.abs().max())
    group, rows = slice(0, 32), plane.work.shape[1]
    grid = plane.full(group)
    codes, values = plane.codes_and_values(plane.work, grid)
    ones, more = torch.ones(rows), torch.full((rows,), 1.25)
    of_low, of_high = plane.of_ends(values, grid, grid)
    for of_end, ends in [(of_low, (more, ones)), (of_high, (ones, more))]:
        other = plane.stretched(group, grid, *ends)
        again, moved = plane.codes_and_values(plane.on_another(values, grid, other), other)
        assert torch.equal(again, codes)
        change = (moved - values)[:, :5]
        cosine = torch.cosine_similarity(change, of_end[:, :5], dim=0)
        assert (cosine > 0.999).all()
