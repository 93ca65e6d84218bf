"""The numbers that codes become for tensor cores, and what turns their sums into weights'."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from bitplan.formats.codebook import FLOATS, codebook_of
from bitplan.kernels.gpu.kept import PITCH
from bitplan.kernels.gpu.layout import PAIRS
from bitplan.schema import Scheme

MANTISSA = {"bf16": 7, "fp16": 10}
"""Bits of the numbers that codes become."""

BIAS = {"bf16": 127, "fp16": 15}
"""Of their exponents."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

PARTS = 3
"""Numbers of bfloat16 that a float32 is the sum of."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """How codes become numbers: a weight is (number - zero) * unit * scale.

    - `mantissa`: 1, with the code in its mantissa, the lowest bit at bit `target`; or for its sign;
    - `centred`: q - half;
    - `float`: a small floating-point number whose lowest bit is at `target`, times 2^`raised`;
    - `table`: the number of pattern `table[q]`; or of one of `choices`, of which each group says
      which, for the code `chosen`.

    Weights that are left out have the code `absent`, of zero where there is one, and so the number
    `nothing`.
    """

    kind: Literal["mantissa", "centred", "float", "table"]
    dtype: str
    unit: float = 1.0
    zero: float = 0.0
    target: int = 0
    raised: int = 0
    table: tuple[int, ...] = ()
    chosen: int = 0
    choices: tuple[int, ...] = ()
    absent: int = 0
    nothing: float = 1.0

    @property
    def less(self) -> int:
        """The pattern of `nothing` with the other sign."""
        number = torch.tensor(-self.nothing, dtype=DTYPES[self.dtype])
        return int(number.view(torch.int16)) & 0xFFFF

    @property
    def low(self) -> tuple[int, ...]:
        """Words of four entries' lower bytes each."""
        return _words(tuple(entry & 0xFF for entry in self.table))

    @property
    def high(self) -> tuple[int, ...]:
        """Words of four entries' upper bytes each."""
        return _words(tuple(entry >> 8 for entry in self.table))

    @property
    def low_choices(self) -> int:
        """A word of the choices' lower bytes."""
        return _words(tuple(entry & 0xFF for entry in self.choices))[0]

    @property
    def high_choices(self) -> int:
        """A word of the choices' upper bytes."""
        return _words(tuple(entry >> 8 for entry in self.choices))[0]


def _words(entries: tuple[int, ...]) -> tuple[int, ...]:
    fours = [entries[first : first + 4] for first in range(0, len(entries), 4)]
    return tuple(int.from_bytes(bytes(four), "little") for four in fours)


def numbers_of(
    scheme: Scheme,
    dtype: str,
    *,
    many: bool = False,
    cuda: bool = True,
    precise: bool = False,
    part: int = 0,
) -> Numbers:
    """The numbers that a scheme's codes become.

    Args:
        scheme: of the weight.
        dtype: of the inputs, `bf16` or `fp16`.
        many: whether numbers become weights before they are multiplied. No tensor core takes them
            then, and they may be of any type.
        cuda: whether the device is one of CUDA's.
        precise: whether inputs are thirds of float32.
        part: of a table whose entries are the sum of `parts_of` numbers, which.
    """
    pitch = PITCH if scheme.sparsity else int(scheme.bits)
    if scheme.format == "sign":
        return Numbers(kind="mantissa", dtype=dtype, target=15)
    if scheme.format == "bfp":
        evenly = _evenly_spaced(int(scheme.bits), dtype, precise, pitch)
        return replace(evenly, unit=evenly.unit / 2 ** (int(scheme.bits) - 2))
    if scheme.is_integer:
        return _evenly_spaced(int(scheme.bits), dtype, precise, pitch)
    if scheme.family.is_ternary:
        # Digits come above 8 bits, and in float16 they are just where its mantissa has the highest.
        evenly = _evenly_spaced(2, dtype, True, 2)
        return replace(evenly, zero=1 + 1 / evenly.unit)
    if scheme.format == "binary2":
        return replace(_evenly_spaced(1, dtype, precise, 1), zero=1.0)
    # Those of float16 lack less, and are the more precise.
    dtype = "fp16" if many else dtype
    stem = scheme.format.removeprefix("mx").removeprefix("nv")
    if stem in FLOATS:
        return _floats(*FLOATS[stem], dtype, raised=dtype == "bf16" or not (cuda or many))
    if scheme.family.choices > 1:
        return _chosen(scheme, dtype)
    values = codebook_of(scheme).table
    table, zero = _patterns(values, dtype, part), values.tolist().index(0.0)
    return Numbers(kind="table", dtype=dtype, table=table, absent=zero, nothing=0.0)


def _chosen(scheme: Scheme, dtype: str) -> Numbers:
    """A table of which one entry, 0 here, is the choice's."""
    tables = [
        _patterns(codebook_of(scheme, choice).table, dtype)
        for choice in range(scheme.family.choices)
    ]
    [chosen] = [
        code for code, entries in enumerate(zip(*tables, strict=True)) if len({*entries}) > 1
    ]
    table = tuple(0 if code == chosen else entry for code, entry in enumerate(tables[0]))
    choices = tuple(table[chosen] for table in tables)
    zero = codebook_of(scheme).table.tolist().index(0.0)
    assert zero != chosen
    return Numbers(
        kind="table",
        dtype=dtype,
        table=table,
        chosen=chosen,
        choices=choices,
        absent=zero,
        nothing=0.0,
    )


def _patterns(values: torch.Tensor, dtype: str, part: int = 0) -> tuple[int, ...]:
    """Of the nearest numbers of a dtype; of what the parts before leave."""
    for _ in range(part):
        values = values - values.to(DTYPES[dtype]).float()
    patterns = values.to(DTYPES[dtype]).view(torch.int16).int().bitwise_and(0xFFFF)
    return tuple(patterns.tolist())


def parts_of(scheme: Scheme, *, precise: bool) -> int:
    """How many numbers a code is the sum of.

    >>> parts_of(Scheme.parse("nf4"), precise=True), parts_of(Scheme.parse("fp8"), precise=True)
    (3, 1)
    """
    return PARTS if precise and scheme.format in ("nf3", "nf4") else 1


def _evenly_spaced(bits: int, dtype: str, precise: bool, pitch: int) -> Numbers:
    """Of codes less half of their number, each `pitch` bits from the one before.

    What is added to a code is taken from a float32 sum again. The higher the target, the less that
    is; but where a code lies at its target already, no shift is spent on it. `precise` asks for the
    highest.
    """
    mantissa = MANTISSA[dtype]
    if bits > mantissa:
        return Numbers(kind="centred", dtype=dtype, absent=2 ** (bits - 1), nothing=0.0)
    starts = {pair * pitch % 16 for pair in range(PAIRS)}
    highest = mantissa - bits
    target = highest if precise else max(start for start in starts if start <= highest)
    unit = 2.0 ** (mantissa - target)
    zero = 1 + 2 ** (bits - 1) / unit
    return Numbers(
        kind="mantissa",
        dtype=dtype,
        target=target,
        unit=unit,
        zero=zero,
        absent=2 ** (bits - 1),
        nothing=zero,
    )


def _floats(exponent_bits: int, mantissa_bits: int, dtype: str, *, raised: bool) -> Numbers:
    """What the number of a code lacks is the difference of the biases of both exponents.

    Raised for float16, too, on AMD: tensor cores of its MI200 take subnormal numbers for zero.
    """
    lacking = BIAS[dtype] - (2 ** (exponent_bits - 1) - 1)
    target = MANTISSA[dtype] - mantissa_bits
    power, unit = (lacking, 1.0) if raised else (0, 2.0**lacking)
    return Numbers(kind="float", dtype=dtype, target=target, raised=power, unit=unit, nothing=0.0)
