"""A codebook: the value of every code of a format that is not evenly spaced or has no offset.

A weight is its code's value times its group's scale; see `scales` for what that is stored in.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitplan.formats import minifloat, normal_float
from bitplan.schema import Scheme

FEW = 15
"""Midpoints that a value is compared with one by one: sooner done than a search for each value."""

AT_ONCE = 1 << 16
"""Codes that are looked up at once: what stays in a processor's cache."""

SIGN = (-1.0, 1.0)
TERNARY = (-1.0, 0.0, 1.0)

FLOATS = {
    "fp8": (4, 3),
    "fp8e5m2": (5, 2),
    "fp6": (2, 3),
    "fp6e3m2": (3, 2),
    "fp4": (2, 1),
}
"""Exponent and mantissa bits. `mx` and `nv` before a name change the scale alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Codebook:
    """The codes of a format.

    `levels` are the values that encoding chooses from, sorted, and `codes` their codes; `midpoints`
    lie between two levels, a hair lower where a weight just in the middle goes to the upper one.
    """

    table: Float[Tensor, "codes"]
    levels: Float[Tensor, "levels"]
    codes: UInt8[Tensor, "levels"]
    midpoints: Float[Tensor, "levels-1"]

    @classmethod
    def of(cls, table: list[float], *, unused: tuple[int, ...] = (), to_even: bool) -> "Codebook":
        """Of a value for each code.

        Args:
            table: values; those that are not finite are decoded but never chosen.
            unused: other codes that are never chosen.
            to_even: a weight in the middle goes to the even code, else to the lower level.
        """
        by_value: dict[float, int] = {}
        for code, value in enumerate(table):
            if torch.tensor(value).isfinite() and code not in unused:
                by_value.setdefault(value, code)  # of two zeros the positive one
        levels = sorted(by_value)
        middles = torch.tensor([(low + high) / 2 for low, high in pairwise(levels)])
        upwards = torch.tensor([to_even and by_value[high] % 2 == 0 for high in levels[1:]])
        below = torch.nextafter(middles, torch.tensor(-torch.inf))
        return cls(
            table=torch.tensor(table),
            levels=torch.tensor(levels),
            codes=torch.tensor([by_value[level] for level in levels], dtype=torch.uint8),
            midpoints=torch.where(upwards, below, middles),
        )

    @property
    def highest(self) -> float:
        """The largest level."""
        return self.levels[-1].item()

    @property
    def lowest(self) -> float:
        """The smallest level."""
        return self.levels[0].item()

    def nearest(self, values: Float[Tensor, "*shape"]) -> Tensor:
        """Index of the level nearest to each value: int32."""
        if len(self.midpoints) > FEW:
            return torch.bucketize(values, self.midpoints.to(values.device), out_int32=True)
        index = torch.full_like(values, len(self.midpoints), dtype=torch.uint8)
        for midpoint in self.midpoints.tolist():
            index -= (values <= midpoint).view(torch.uint8)
        return index.int()

    def levels_at(self, index: Tensor) -> Float[Tensor, "*shape"]:
        """The levels of what `nearest` found."""
        return look_up(self.levels, index)

    def codes_at(self, index: Tensor) -> UInt8[Tensor, "*shape"]:
        """The codes of what `nearest` found."""
        return look_up(self.codes, index)

    def values_of(self, codes: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The value of each code."""
        if codes.device.type != "cpu":
            return look_up(self.table, codes.int())
        # Part by part: an index is of int32, four times as large as the code.
        values = torch.empty(codes.shape)
        parts = codes.flatten().split(AT_ONCE), values.view(-1).split(AT_ONCE)
        for some, found in zip(*parts, strict=True):
            torch.index_select(self.table, 0, some.int(), out=found)
        return values


def look_up(table: Float[Tensor, "entries"], index: Tensor) -> Tensor:
    """Entries of a table; the index is of int32 or int64, of any shape."""
    return table.to(index.device).index_select(0, index.flatten()).view(index.shape)


def codebook_of(scheme: Scheme, choice: int = 0) -> Codebook:
    """The codebook of a scheme that is neither float nor integer; the chosen one of several."""
    return _codebook(scheme.format, int(scheme.bits), choice)


@cache
def _codebook(format: str, bits: int, choice: int) -> Codebook:
    match format:
        case "bitmod3" | "bitmod4":
            return Codebook.of(_bitmod(bits)[choice], to_even=False)
        case "sign":
            return Codebook.of(list(SIGN), to_even=False)
        case "ternary":
            return Codebook.of(list(TERNARY), to_even=False)
        case "nf3" | "nf4":
            return Codebook.of(normal_float.values(bits), to_even=False)
        case "bfp":
            return _block_floating_point(bits)
    return Codebook.of(
        minifloat.values(*FLOATS[format.removeprefix("mx").removeprefix("nv")]), to_even=True
    )


def _bitmod(bits: int) -> list[list[float]]:
    """Of four lists the values: those of a small float, with another in place of its negative zero.

    BitMoD (Chen et al., HPCA 2025), table II: in 3 bits 3 and -3 for extra resolution, 6 and -6 for
    extra range on one side; in 4 bits 5, -5, 8 and -8.
    """
    if bits == 3:
        magnitudes, extra = [0.0, 1.0, 2.0, 4.0], (3.0, -3.0, 6.0, -6.0)
    else:
        magnitudes, extra = minifloat.values(*FLOATS["fp4"])[:8], (5.0, -5.0, 8.0, -8.0)
    negative = [-value for value in magnitudes[1:]]
    return [[*magnitudes, value, *negative] for value in extra]


def _block_floating_point(bits: int) -> Codebook:
    """Two's complement integers over 2^(bits - 2), as MXINT8 is for 8 bits (OCP MX v1.0, 5.3.4).

    Block floating point for networks: Drumond et al., Training DNNs with hybrid block floating
    point (2018). The most negative code, -2, is not used, as that specification allows: without it
    what was encoded once is encoded to itself.
    """
    half = 2 ** (bits - 1)
    table = [code / (half // 2) for code in (*range(half), *range(-half, 0))]
    return Codebook.of(table, unused=(half,), to_even=True)
