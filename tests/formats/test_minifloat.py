"""The value of every code, beside ml_dtypes and torch."""

import ml_dtypes
import numpy as np
import pytest
import torch

from bitplan.formats import minifloat
from bitplan.formats.codebook import FLOATS
from bitplan.formats.scales import read_scale, store_scale

THEIRS = {
    "fp8": ml_dtypes.float8_e4m3fn,
    "fp8e5m2": ml_dtypes.float8_e5m2,
    "fp6": ml_dtypes.float6_e2m3fn,
    "fp6e3m2": ml_dtypes.float6_e3m2fn,
    "fp4": ml_dtypes.float4_e2m1fn,
}


def bits_of(values: np.ndarray) -> np.ndarray:
    """The bits of float32 values, all NaNs alike."""
    return np.where(np.isnan(values), np.nan, values).astype(np.float32).view(np.uint32)


@pytest.mark.parametrize("name", FLOATS)
def test_every_code_is_that_of_ml_dtypes(name):
    ours = np.array(minifloat.values(*FLOATS[name]), dtype=np.float32)
    codes = np.arange(len(ours), dtype=np.uint8)
    theirs = codes.view(THEIRS[name]).astype(np.float32)
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    assert np.array_equal(bits_of(np.abs(ours)), bits_of(np.abs(theirs)))
    known = ~np.isnan(ours)
    assert np.array_equal(np.signbit(ours)[known], np.signbit(theirs)[known])


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp8", torch.float8_e4m3fn), ("fp8e5m2", torch.float8_e5m2)]
)
def test_every_code_is_that_of_torch(name, dtype):
    theirs = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    ours = torch.tensor(minifloat.values(*FLOATS[name]))
    assert torch.equal(ours.isnan(), theirs.isnan())
    known = ~ours.isnan()
    assert torch.equal(ours[known].view(torch.int32), theirs[known].view(torch.int32))


def test_every_power_of_two_is_that_of_ml_dtypes_and_torch():
    stored = torch.arange(256, dtype=torch.uint8)
    ours = read_scale("e8m0", stored, None)
    theirs = stored.numpy().view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(ours.numpy(), theirs, equal_nan=True)
    assert torch.equal(ours[:255], stored.view(torch.float8_e8m0fnu).float()[:255])
    assert torch.equal(store_scale("e8m0", ours[:255], None), stored[:255])


def test_every_scale_of_a_block_is_that_of_torch():
    stored = torch.arange(127, dtype=torch.uint8)
    one = torch.ones(())
    ours = read_scale("e4m3", stored, one)
    assert torch.equal(ours, stored.view(torch.float8_e4m3fn).float())
    assert torch.equal(store_scale("e4m3", ours, one), stored)


def test_scales_are_rounded_as_ml_dtypes_rounds():
    drawn = np.exp(np.random.default_rng(0).normal(size=2000) * 3).astype(np.float32)
    drawn = drawn[drawn < 448]
    ours = store_scale("e4m3", torch.from_numpy(drawn), torch.ones(()))
    assert np.array_equal(ours.numpy(), drawn.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))


@pytest.mark.parametrize("kind", ["bf16", "e8m0", "e4m3"])
def test_a_scale_beyond_the_largest_is_the_largest(kind):
    one = torch.ones(())
    scale = torch.tensor([3.4e38, 0.0, 1e-45])
    read = read_scale(kind, store_scale(kind, scale, one), one)
    assert read.isfinite().all()
    largest = {"bf16": torch.finfo(torch.bfloat16).max, "e8m0": 2.0**127, "e4m3": 448.0}
    assert read[0] == largest[kind]
    assert (read[1:] <= 2.0**-126).all()
