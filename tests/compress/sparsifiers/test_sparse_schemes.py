"""Schemes that leave weights out: counts, bytes, and what each quantizer is worth."""

import pytest
import torch

from bitplan.compress import QUANTIZERS, render
from bitplan.compress.sparsifiers import keep, magnitude, saliency, wanda
from bitplan.errors import SchemeError
from bitplan.footprint import scheme_bytes
from bitplan.schema import Scheme, Sparsity
from rendered import correlated, expected_loss, one, random

NAMES = [
    "int4g64+2:4",
    "int4+2:4",
    "int3g32s+50%",
    "int4g16d+1:4",
    "int5+70%",
    "nf4g32+4:8",
    "ternaryg64+2:4",
    "mxfp4+50%",
    "nvfp4+2:4",
    "bitmod3g64+25%",
    "ternary2g64+50%",
    "binary2g16d+2:4",
]
ROWS, COLUMNS = 20, 168


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", NAMES)
def test_each_row_keeps_what_the_scheme_says_in_just_its_bytes(name, quantizer):
    weight = random(ROWS, COLUMNS)
    packed = one(weight, name, quantizer, correlated(COLUMNS))
    sparsity = packed.scheme.sparsity
    assert packed.nbytes == scheme_bytes(weight.shape, packed.scheme)
    zero = packed.decode() == 0
    assert (zero.sum(1) >= COLUMNS - sparsity.columns(COLUMNS)).all()
    if sparsity.block:
        zeros = zero.unflatten(1, (-1, sparsity.block)).sum(2)
        assert (zeros >= sparsity.block - sparsity.kept).all()


@pytest.mark.parametrize("name", ["int4g64+2:4", "int4g64+50%", "int4+2:4", "nf4g32+30%"])
def test_gptq_loses_least_and_magnitude_most(name):
    weight, covariance = random(64, COLUMNS), correlated(COLUMNS)
    losses = [
        expected_loss(weight, one(weight, name, quantizer, covariance), covariance)
        for quantizer in ("gptq", "clip", "rtn")
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.95 * losses[1]


def test_a_grid_lies_where_the_kept_weights_are():
    """A group of small weights and one huge one that is left out is as exact as without it."""
    weight = torch.full((1, 32), 0.5)
    weight[0, ::4], weight[0, 3] = 0.1, -100.0
    covariance = torch.eye(32)
    covariance[3, 3] = 1e-12
    packed = one(weight, "int4g32+5%", "clip", covariance)
    kept = torch.arange(32) != 3
    torch.testing.assert_close(packed.decode()[0, kept], weight[0, kept], rtol=0.02, atol=0)
    assert packed.decode()[0, 3] == 0


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_alone_or_beside_others_it_is_the_same(quantizer):
    names = ["int4g64+2:4", "int3g64+2:4", "int4g64", "int4g64+50%", "nf4g64+2:4"]
    weight, covariance = random(ROWS, COLUMNS), correlated(COLUMNS)
    schemes = list(map(Scheme.parse, names))
    together = render(weight, schemes, quantizer=quantizer, covariance=covariance)
    for name, scheme in zip(names, schemes, strict=True):
        alone = one(weight, name, quantizer, covariance)
        for tensor, expected in alone.tensors.items():
            assert torch.equal(together[scheme].tensors[tensor], expected)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", ["int4g16+2:4", "int4g16+50%", "nf4g16+50%"])
def test_rows_and_groups_of_zeros(name, quantizer):
    weight = random(4, 64)
    weight[0], weight[1, 16:32] = 0, 0
    decoded = one(weight, name, quantizer, correlated(64)).decode()
    assert decoded.isfinite().all()
    assert (decoded[0] == 0).all()


def test_experts_are_left_out_of_each_on_its_own():
    weight = random(3, 8, 32)
    covariance = torch.stack([correlated(32, seed) for seed in range(3)])
    scheme = Scheme.parse("int4g16+2:4")
    packed = render(weight, [scheme], covariance=covariance)[scheme]
    assert packed.nbytes == scheme_bytes(weight.shape, scheme)
    for index in range(3):
        alone = one(weight[index], str(scheme), "gptq", covariance[index])
        assert torch.equal(packed.decode()[index], alone.decode())


def test_a_row_that_blocks_do_not_divide_is_refused():
    with pytest.raises(SchemeError, match=r"2:4 needs rows in 4s, and these have 30 weights"):
        one(random(4, 30), "int4g16+2:4", "rtn")


def test_scores():
    weight, importance = torch.tensor([[3.0, -1.0], [2.0, 2.0]]), torch.tensor([1.0, 4.0])
    assert magnitude(weight).tolist() == [[9, 1], [4, 4]]
    assert wanda(weight, importance).tolist() == [[9, 1], [16, 16]]
    assert saliency(weight, importance).tolist() == [[9, 1], [0.25, 0.25]]


def test_rows_may_keep_different_numbers():
    score = torch.tensor([[4.0, 1.0, 2.0], [3.0, 3.0, 1.0], [1.0, 2.0, 3.0]])
    mask = keep(score, Sparsity.parse("50%"), torch.tensor([1, 3, 0]))
    assert mask.t().tolist() == [[True, False, False], [True] * 3, [False] * 3]


@pytest.mark.parametrize("name", ["2:4", "1:2", "5:8", "50%", "30%"])
def test_what_is_kept_scores_no_lower_than_what_goes(name):
    sparsity, rows = Sparsity.parse(name), 5
    # Few values, so that many are equal.
    score = torch.randint(0, 4, (48, rows), generator=torch.Generator().manual_seed(0)).float()
    mask = keep(score, sparsity, sparsity.columns(48))
    blocks = (
        score.unflatten(0, (-1, sparsity.block or 48)),
        mask.unflatten(0, (-1, sparsity.block or 48)),
    )
    least = blocks[0].masked_fill(~blocks[1], torch.inf).amin(1)
    most = blocks[0].masked_fill(blocks[1], -torch.inf).amax(1)
    assert (least >= most).all()
    assert (mask.sum(0) == sparsity.columns(48)).all()
    if sparsity.block:
        assert (blocks[1].sum(1) == sparsity.kept).all()
