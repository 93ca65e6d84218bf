"""Covariances drawn to their diagonals: nearer to the truth, and better for the quantizer."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bitplan.compress import render
from bitplan.schema import Kind, Layer, Scheme
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.moments.shrinkage import shrinkage

WIDTH, OUTPUTS, LENGTH = 64, 16, 20
MOMENT = MOMENTS["covariance"]


def drawn(sequences: int, factor: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sequences, LENGTH, len(factor), generator=generator) @ factor


def factor_of(seed: int = 0) -> Tensor:
    """Inputs that go together, and of sizes far apart."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 + 0.7 * torch.eye(WIDTH)
    return mixed * torch.logspace(-1, 1, WIDTH)


def sums_of(inputs: Tensor, experts: int = 0) -> dict[str, Tensor]:
    """Of inputs [sequences, tokens, width], with gradients of one; or the same for each expert."""
    shape = (*([experts] if experts else []), OUTPUTS, WIDTH)
    kind = Kind.EXPERTS if experts else Kind.LINEAR
    sums = MOMENT.zeros(Layer(name="x", kind=kind, shape=shape, block=0), len(inputs))
    for sequence, rows in enumerate(inputs):
        generator = torch.Generator().manual_seed(sequence)
        for at in [(e,) for e in range(experts)] or [()]:
            MOMENT.add(
                sums,
                rows,
                torch.ones(len(rows), OUTPUTS),
                sequence=sequence,
                generator=generator,
                at=at,
            )
    return sums


def correlations(covariance: Tensor) -> Tensor:
    scale = covariance.diagonal().rsqrt()
    return covariance * scale[:, None] * scale


def shrunk(matrix: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(matrix, matrix.diagonal().diag(), share)


@pytest.mark.parametrize("sequences", [8, 16, 64])
def test_what_is_drawn_to_its_diagonal_is_nearer_to_the_truth(sequences):
    factor = factor_of()
    truth, shares, best, errors = correlations(factor.T @ factor), [], [], []
    for seed in range(12):
        sums = sums_of(drawn(sequences, factor, seed))
        share, seen = shrinkage(sums), correlations(sums["covariance"])
        shares.append(share.item())
        off, error = seen - seen.diagonal().diag(), truth - seen
        best.append(-(off * error).sum().item() / off.square().sum().item())
        errors.append([(shrunk(seen, share) - truth).norm(), error.norm()])
    assert np.mean(shares) == pytest.approx(np.mean(best), rel=0.25)
    after, before = np.square(errors).mean(0)
    assert after < before * (1 - 0.5 * np.mean(best))


def test_more_tokens_need_less_of_it():
    shares = [shrinkage(sums_of(drawn(n, factor_of(), 1))).item() for n in (3, 12, 48, 192)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.1 < shares[0]


def test_inputs_apart_keep_their_diagonal_alone():
    share = shrinkage(sums_of(drawn(16, torch.logspace(-1, 1, WIDTH).diag(), 0)))
    assert share > 0.8


def test_each_expert_has_its_own_and_one_sequence_tells_nothing():
    inputs = drawn(32, factor_of(), 2)
    alone, both = shrinkage(sums_of(inputs)), shrinkage(sums_of(inputs, experts=2))
    assert both.shape == (2,)
    assert both == pytest.approx(alone.expand(2), rel=0.5)  # signs differ
    assert shrinkage(sums_of(inputs[:1])) == 0
    assert shrinkage(sums_of(torch.zeros(4, LENGTH, WIDTH))) == 0
    # A sequence that never reached the layer is none.
    more = torch.cat([inputs, torch.zeros(3, LENGTH, WIDTH)])
    assert shrinkage(sums_of(more)) == pytest.approx(alone)


@pytest.mark.parametrize("name", ["int2g32", "int3g32", "int4"])
def test_gptq_errs_less_on_tokens_that_it_did_not_see(name):
    """Tokens weigh as differently as gradients make them."""
    factor, scheme = factor_of(), Scheme.parse(name)
    truth, ratios = factor.T @ factor, []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(OUTPUTS, WIDTH, generator=generator)
        weights = torch.randn(8, LENGTH, 1, generator=generator).exp()
        sums = sums_of(drawn(8, factor, seed) * weights)
        loss = []
        for share in (torch.zeros(()), shrinkage(sums)):
            [packed] = render(
                weight, [scheme], covariance=sums["covariance"], shrinkage=share
            ).values()
            error = packed.decode(torch.float32) - weight
            loss.append((error @ truth * error).sum())
        ratios.append((loss[1] / loss[0]).log())
    assert torch.stack(ratios).mean().exp() < 0.95
