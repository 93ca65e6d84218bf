"""Two planes as digits of one code."""

import pytest
import torch

from bitplan.formats import base3, bits
from bitplan.formats.codes import pack_codes, unpack_codes
from bitplan.formats.two_planes import VALUES, join, split, units
from bitplan.schema import FAMILIES, Scheme


def every_code(format: str) -> torch.Tensor:
    return torch.arange(len(VALUES[format]) ** 2, dtype=torch.uint8)


def test_the_formats_are_those_of_two_planes():
    assert set(VALUES) == {stem for stem, family in FAMILIES.items() if family.planes == 2}


@pytest.mark.parametrize("format", VALUES)
def test_a_code_is_a_pair_of_values(format):
    codes, values = every_code(format), torch.tensor(VALUES[format])
    first, second = split(format, codes)
    assert first.dtype == second.dtype == torch.uint8
    assert torch.equal(join(format, first, second), codes)
    assert torch.equal(units(format), torch.stack((values[first.long()], values[second.long()])))
    pairs = {(a, b) for a in VALUES[format] for b in VALUES[format]}
    assert {tuple(pair) for pair in units(format).t().tolist()} == pairs


@pytest.mark.parametrize("columns", [1, 5, 8, 33, 100])
@pytest.mark.parametrize("format", VALUES)
def test_each_plane_is_packed_as_if_it_were_alone(format, columns):
    generator, scheme = torch.Generator().manual_seed(columns), Scheme.parse(format)
    codes = every_code(format)[
        torch.randint(0, len(every_code(format)), (3, columns), generator=generator)
    ]
    packed = pack_codes(scheme, codes)
    assert torch.equal(unpack_codes(scheme, packed, columns), codes)
    for plane, digits in zip(packed.chunk(2, dim=-1), split(format, codes), strict=True):
        alone = base3.pack(digits) if format == "ternary2" else bits.pack(digits, 1)
        assert torch.equal(plane, alone)
