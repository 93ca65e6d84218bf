"""What is common to all moments: how they begin, and what stands for experts never reached."""

import pytest
import torch

from bitplan.schema import Kind, Layer
from bitplan.sensitivity.moments import MOMENTS

LAYERS = [
    Layer(name="linear", kind=Kind.LINEAR, shape=(5, 6)),
    Layer(name="embedding", kind=Kind.EMBEDDING, shape=(9, 6)),
    Layer(name="experts", kind=Kind.EXPERTS, shape=(3, 5, 6)),
]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_a_moment_begins_with_zeros(moment, layer):
    assert MOMENTS[moment].name == moment
    sums = MOMENTS[moment].zeros(layer, 4)
    assert all((tensor == 0).all() for tensor in sums.values())
    assert all(len(sums[name]) == 4 for name in MOMENTS[moment].by_sequence if name in sums)


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_expert_never_reached_has_the_mean_of_the_others(moment):
    layer, generator = LAYERS[2], torch.Generator().manual_seed(8)
    sums = MOMENTS[moment].zeros(layer, 2)
    for sequence in range(2):
        drawn = torch.Generator().manual_seed(sequence)
        for expert in (0, 2):
            inputs = torch.randn(20, 6, generator=generator)
            slopes = torch.randn(20, 5, generator=generator)
            MOMENTS[moment].add(
                sums, inputs, slopes, sequence=sequence, generator=drawn, at=(expert,)
            )
    before = {name: tensor.clone() for name, tensor in sums.items()}
    filled = MOMENTS[moment].fill_unreached(sums, torch.tensor([True, False, True]))
    for name, tensor in filled.items():
        assert torch.equal(sums[name], before[name])
        dim = int(name in MOMENTS[moment].by_sequence)
        by_expert, given = tensor.movedim(dim, 0), before[name].movedim(dim, 0)
        assert torch.equal(by_expert[[0, 2]], given[[0, 2]])
        assert by_expert[1].any()
        if name != "sketches":
            assert torch.allclose(by_expert[1], (given[0] + given[2]) / 2)
