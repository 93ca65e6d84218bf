"""Codebooks: which code is nearest, beside how ml_dtypes rounds."""

import ml_dtypes
import numpy as np
import pytest
import torch

from bitplan.formats.codebook import AT_ONCE, Codebook, codebook_of
from bitplan.schema import FAMILIES, Scheme

STEMS = [s for s, f in FAMILIES.items() if not f.offset and f.choices == f.planes == 1]
FLOATS = {
    "fp8": (ml_dtypes.float8_e4m3fn, 448),
    "mxfp8": (ml_dtypes.float8_e4m3fn, 448),
    "fp8e5m2": (ml_dtypes.float8_e5m2, 57344),
    "mxfp8e5m2": (ml_dtypes.float8_e5m2, 57344),
    "fp6": (ml_dtypes.float6_e2m3fn, 7.5),
    "mxfp6": (ml_dtypes.float6_e2m3fn, 7.5),
    "fp6e3m2": (ml_dtypes.float6_e3m2fn, 28),
    "mxfp6e3m2": (ml_dtypes.float6_e3m2fn, 28),
    "fp4": (ml_dtypes.float4_e2m1fn, 6),
    "mxfp4": (ml_dtypes.float4_e2m1fn, 6),
    "nvfp4": (ml_dtypes.float4_e2m1fn, 6),
}
QLORA = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]
"""The 16 values of NF4 as QLoRA's appendix E lists them."""


def book(stem: str) -> Codebook:
    return codebook_of(Scheme.parse(stem))


def encoded(stem: str, values: torch.Tensor) -> torch.Tensor:
    return book(stem).codes_at(book(stem).nearest(values))


def test_all_floats_are_here():
    assert {stem for stem in STEMS if "fp" in stem and "bfp" not in stem} == set(FLOATS)


@pytest.mark.parametrize("stem", STEMS)
def test_every_code_has_a_value_and_a_place(stem):
    family, ours = FAMILIES[stem], book(stem)
    assert len(ours.table) == (3 if stem == "ternary" else 2**family.bits)
    levels = ours.levels
    assert torch.equal(levels, levels.sort().values)
    assert len(levels.unique()) == len(levels)
    assert torch.equal(ours.values_of(ours.codes), levels)
    assert torch.equal(encoded(stem, levels), ours.codes)
    left_out = set(range(len(ours.table))) - set(ours.codes.tolist())
    twice = {"ternary", "sign", "nf3", "nf4"}
    assert (not left_out) == (stem in twice)


@pytest.mark.parametrize("stem", STEMS)
def test_the_nearest_level_is_taken(stem):
    ours = book(stem)
    reach = ours.highest * 1.3
    values = (torch.rand(4000, generator=torch.Generator().manual_seed(0)) * 2 - 1) * reach
    values[::2] *= torch.rand(2000, generator=torch.Generator().manual_seed(1)) ** 8
    found = ours.levels_at(ours.nearest(values)).double()
    distances = (values.double()[:, None] - ours.levels.double()).abs()
    assert torch.equal((found - values).abs(), distances.amin(1))


@pytest.mark.parametrize("stem", FLOATS)
def test_floats_are_rounded_as_ml_dtypes_rounds(stem):
    dtype, highest = FLOATS[stem]
    random = np.random.default_rng(0)
    values = (random.normal(size=5000) * np.exp(random.normal(size=5000) * 4)).astype(np.float32)
    levels = book(stem).levels.numpy()
    middles = ((levels[1:].astype(np.float64) + levels[:-1]) / 2).astype(np.float32)
    around = [np.nextafter(middles, np.float32(to)) for to in (-np.inf, np.inf)]
    values = np.concatenate([values, levels, middles, *around]).clip(-highest, highest)
    theirs = values.astype(dtype).astype(np.float32)
    ours = book(stem).values_of(encoded(stem, torch.from_numpy(values))).numpy()
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("stem", STEMS)
def test_what_is_beyond_the_levels_gets_the_outermost(stem):
    ours = book(stem)
    found = ours.levels_at(ours.nearest(torch.tensor([-torch.inf, -1e38, 1e38, torch.inf])))
    assert found.tolist() == [ours.lowest] * 2 + [ours.highest] * 2


def test_normal_floats_are_those_of_the_paper():
    nf4 = book("nf4").table
    torch.testing.assert_close(nf4, torch.tensor(QLORA), rtol=0, atol=2e-7)
    # Of eight codes: d = (1/16 + 1/14) / 2.
    normal = torch.distributions.Normal(0.0, 1.0)
    outermost = 1 - (1 / 16 + 1 / 14) / 2
    above = normal.icdf(torch.tensor([0.5 + (outermost - 0.5) * i / 4 for i in range(1, 5)]))
    below = normal.icdf(torch.tensor([0.5 + (outermost - 0.5) * i / 3 for i in range(1, 4)]))
    expected = torch.cat([-below.flip(0) / below[-1], torch.zeros(1), above / above[-1]])
    torch.testing.assert_close(book("nf3").table, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("bits", [3, 4, 5, 6, 7, 8])
def test_block_floating_point_is_twos_complement(bits):
    table = book(f"bfp{bits}").table
    codes = torch.arange(2**bits)
    signed = torch.where(codes < 2 ** (bits - 1), codes, codes - 2**bits)
    assert torch.equal(table, signed / 2.0 ** (bits - 2))
    assert book(f"bfp{bits}").lowest == -book(f"bfp{bits}").highest


@pytest.mark.parametrize(
    ("bits", "base", "extra"),
    [(3, [0, 1, 2, 4], [3, -3, 6, -6]), (4, [0, 0.5, 1, 1.5, 2, 3, 4, 6], [5, -5, 8, -8])],
)
def test_bitmod_replaces_the_negative_zero(bits, base, extra):
    for choice, value in enumerate(extra):
        ours = codebook_of(Scheme.parse(f"bitmod{bits}"), choice)
        assert ours.levels.tolist() == sorted({*base, *(-one for one in base), value})
        assert ours.table[2 ** (bits - 1)] == value
        assert torch.equal(ours.values_of(ours.codes), ours.levels)


@pytest.mark.parametrize("stem", STEMS)
def test_few_levels_and_many_are_searched_alike(stem):
    found, generator = book(stem), torch.Generator().manual_seed(0)
    edges = torch.cat([found.midpoints, found.levels])
    spread = torch.randn(999, generator=generator) * found.highest
    strange = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0])
    values = torch.cat([edges, edges.nextafter(torch.tensor(torch.inf)), spread, strange])
    expected = torch.bucketize(values, found.midpoints, out_int32=True)
    index = found.nearest(values)
    assert index.dtype == torch.int32
    assert torch.equal(index, expected)


def test_values_of_more_codes_than_are_looked_up_at_once():
    codes = torch.randint(0, 16, (3, AT_ONCE // 2), dtype=torch.uint8)
    for given in (codes, codes.t(), codes[:, 1:]):
        assert torch.equal(book("nf4").values_of(given), book("nf4").table[given.long()])
