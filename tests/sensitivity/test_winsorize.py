"""A sequence with gradients far beyond the others' counts as much as it may, wherever it comes."""

import pytest
import torch
from torch import Tensor

from bitplan.schema import Kind, Layer
from bitplan.sensitivity import winsorize
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.sums import Sums
from bitplan.sensitivity.watch import Seen
from bitplan.sensitivity.winsorize import LOOKUP, PRODUCT, factor, mean_squares

LINEAR = Layer(name="block.q_proj", kind=Kind.LINEAR, shape=(5, 6))
EXPERTS = Layer(name="block.experts", kind=Kind.EXPERTS, shape=(3, 5, 6))
EMBEDDING = Layer(name="embed_tokens", kind=Kind.EMBEDDING, shape=(7, 6), tied=("lm_head",))
LENGTH, SEQUENCES = 20, 5


@pytest.mark.parametrize(
    ("means", "sequence", "expected"),
    [
        ([30.0, 0, 0], 0, 1.0),  # nothing beside it
        ([30.0, 1.0, 0], 0, 0.1),
        ([1.0, 30.0, 0], 1, 0.1),
        ([1.0, 2.0, 30.0], 2, 0.2),
        ([1.0, 2.0, 3.0], 2, 1.0),
        ([1.0, 0.0, 3.0], 1, 1.0),  # no gradient
        ([0.0, 0.0, 30.0], 2, 1.0),
        ([0.0, 10.0, 60.0], 2, 0.5),
    ],
)
def test_no_more_than_three_times_the_median_so_far(means, sequence, expected):
    assert factor(torch.tensor(means, dtype=torch.float64), sequence) == pytest.approx(expected)


def test_the_mean_is_over_all_calls_and_experts():
    ones = [
        Seen(layer=EXPERTS, inputs=torch.ones(n, 6), gradients=torch.full((n, 5), g), expert=e)
        for n, g, e in ((1, 1.0, 0), (3, 2.0, 2))
    ]
    told = mean_squares(ones)
    assert told[PRODUCT] == pytest.approx((1 * 1 + 3 * 4) / 4)
    assert told[LOOKUP] == 0
    assert mean_squares([]).tolist() == [0, 0]


def unit(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Gradients of mean square 1."""
    drawn = torch.randn(rows, columns, generator=generator)
    return drawn / drawn.square().mean().sqrt()


def added(moment: str, layer: Layer, scales: dict[int, dict[int, float]]) -> Sums:
    """Sums over sequences alike but for `scales`: of squared gradients, by kind and sequence."""
    generator = torch.Generator().manual_seed(3)
    sums = Sums.zeros(moment, layer, sequences=SEQUENCES)
    for sequence in range(SEQUENCES):
        seen = []
        for expert in range(layer.shape[0]) if layer.kind is Kind.EXPERTS else [None]:
            inputs = torch.randn(LENGTH, 6, generator=generator)
            gradients = unit(LENGTH, layer.shape[-2], generator)
            seen.append(Seen(layer=layer, inputs=inputs, gradients=gradients, expert=expert))
        if layer.kind is Kind.EMBEDDING:
            tokens = torch.randint(0, layer.shape[0], (LENGTH,), generator=generator)
            seen.append(Seen(layer=layer, inputs=tokens, gradients=unit(LENGTH, 6, generator)))
        for one in seen:
            kind = LOOKUP if one.is_lookup else PRODUCT
            one.gradients.mul_(scales.get(kind, {}).get(sequence, 1.0) ** 0.5)
        sums.add(seen, sequence=sequence, tokens=LENGTH)
    return sums


def assert_alike(found: Sums, expected: Sums) -> None:
    for key, tensor in expected.tensors.items():
        assert torch.allclose(found.tensors[key], tensor, rtol=1e-4, atol=1e-4), key


@pytest.mark.parametrize("outlier", range(SEQUENCES))
@pytest.mark.parametrize("layer", [LINEAR, EXPERTS], ids=lambda layer: layer.kind.value)
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_outlier_counts_three_times(moment, layer, outlier):
    found = added(moment, layer, {PRODUCT: {outlier: 30.0}})
    assert_alike(found, added(moment, layer, {PRODUCT: {outlier: 3.0}}))
    assert found.squares[PRODUCT, outlier] == pytest.approx(30.0)  # as it was


@pytest.mark.parametrize("outlier", range(SEQUENCES))
@pytest.mark.parametrize("kind", [PRODUCT, LOOKUP])
def test_what_a_tied_embedding_is_used_for_is_weighed_apart(kind, outlier):
    if kind == PRODUCT and outlier == 0:
        pytest.skip("the head's part of the first sequence cannot be told from its lookups")
    found = added("covariance", EMBEDDING, {kind: {outlier: 30.0}})
    assert_alike(found, added("covariance", EMBEDDING, {kind: {outlier: 3.0}}))


def test_lookups_are_counted_whatever_their_gradients():
    found = added("covariance", EMBEDDING, {LOOKUP: {0: 30.0}})
    assert found.tensors["lookups"].sum() == LENGTH * SEQUENCES


def test_inputs_have_no_gradients_to_weigh(monkeypatch):
    found = added("inputs", LINEAR, {PRODUCT: {0: 30.0, 3: 30.0}})
    monkeypatch.setattr(winsorize, "MOST", float("inf"))
    for key, tensor in added("inputs", LINEAR, {}).tensors.items():
        assert torch.equal(found.tensors[key], tensor)
