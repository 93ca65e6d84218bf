"""Codes of a scheme as they are stored, row by row: five ternary ones to a byte, others by bits."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from bitplan.formats import base3, bits, two_planes
from bitplan.schema import Family, Scheme


def pack_codes(scheme: Scheme, codes: UInt8[Tensor, "*out in"]) -> UInt8[Tensor, "*out bytes"]:
    """Codes as they are stored; of two planes those of the first of a row, then of the second."""
    family = scheme.family
    if family.planes == 1:
        return _pack(family, codes)
    planes = two_planes.split(scheme.format, codes)
    return torch.cat([_pack(family, digits) for digits in planes], dim=-1)


def unpack_codes(
    scheme: Scheme, packed: UInt8[Tensor, "*out bytes"], columns: int
) -> UInt8[Tensor, "*out columns"]:
    """The codes that `pack_codes` packed."""
    family = scheme.family
    if family.planes == 1:
        return _unpack(family, packed, columns)
    first, second = (_unpack(family, plane, columns) for plane in packed.chunk(2, dim=-1))
    return two_planes.join(scheme.format, first, second)


def _pack(family: Family, codes: Tensor) -> Tensor:
    return base3.pack(codes) if family.is_ternary else bits.pack(codes, _plane_bits(family))


def _unpack(family: Family, packed: Tensor, columns: int) -> Tensor:
    if family.is_ternary:
        return base3.unpack(packed, columns)
    return bits.unpack(packed, _plane_bits(family), columns)


def _plane_bits(family: Family) -> int:
    return int(family.bits) // family.planes
