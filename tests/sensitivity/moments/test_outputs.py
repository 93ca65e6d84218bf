"""The covariance of gradients: whole, or its diagonal where it would be too large."""

import torch

from bitplan.schema import Kind, Layer
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.moments.outputs import LARGEST


def layer_of(*shape: int, kind: Kind = Kind.LINEAR) -> Layer:
    return Layer(name="a", kind=kind, shape=shape)


def test_a_vocabulary_keeps_the_diagonal_alone():
    moment, rows = MOMENTS["outputs"], LARGEST + 1
    sums = moment.zeros(layer_of(rows, 2), 1)
    gradients = torch.randn(5, rows, generator=torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(0)
    for _ in range(2):
        moment.add(sums, torch.randn(5, 2), gradients, sequence=0, generator=drawn)
    assert torch.allclose(sums["outputs"], 2 * gradients.square().sum(0))


def test_each_of_many_experts_keeps_a_diagonal_of_its_own():
    moment, rows = MOMENTS["outputs"], LARGEST + 1
    sums = moment.zeros(layer_of(2, rows, 2, kind=Kind.EXPERTS), 1)
    gradients, drawn = torch.full((5, rows), 2.0), torch.Generator().manual_seed(0)
    moment.add(sums, torch.ones(5, 2), gradients, sequence=0, generator=drawn, at=(1,))
    assert sums["outputs"].shape == (2, rows)
    assert (sums["outputs"][0] == 0).all()
    assert (sums["outputs"][1] == 20).all()


def test_what_a_matrix_has_and_what_a_table_has():
    moment = MOMENTS["outputs"]
    assert moment.zeros(layer_of(6, 4), 3)["outputs"].shape == (6, 6)
    assert moment.zeros(layer_of(6, 4, kind=Kind.EMBEDDING), 3)["outputs"].shape == (6,)
