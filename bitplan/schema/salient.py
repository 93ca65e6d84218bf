"""Which share of a matrix's columns is kept at a higher precision: a part of a scheme."""

import re
from dataclasses import dataclass
from typing import Literal

from bitplan.errors import SchemeError

FEW, MANY = 8, 32
"""Columns are taken out in eights, so that what is left packs without padding and stays in the
blocks of N:M sparsity; and from 32 on in 32s, which GPU kernels want of what is left."""


@dataclass(frozen=True, kw_only=True)
class Salient:
    """At least `percent` of the input columns, the same for all rows, are stored in `format`.

    `int8` is symmetric, with a bfloat16 scale for each row of them.

    >>> Salient.parse("2%int8")
    Salient(percent=2, format='int8')
    >>> str(Salient.parse("1%bf16"))
    '1%bf16'
    """

    percent: int
    format: Literal["int8", "bf16"]

    @classmethod
    def parse(cls, name: str) -> "Salient":
        """The share of a name. Raises `SchemeError` where there is none."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise SchemeError(f"{name!r} is no share of salient columns. {KNOWN}")
        kept = "int8" if match["format"] == "int8" else "bf16"
        return cls(percent=int(match["percent"]), format=kept)

    def columns(self, row: int) -> int:
        """Columns that are kept of a row: the share, rounded up to whole eights, or 32s.

        >>> [Salient.parse("1%int8").columns(row) for row in (64, 576, 1536, 4096)]
        [8, 8, 16, 64]
        """
        step = FEW if row * self.percent < 100 * MANY else MANY
        return -(-row * self.percent // (100 * step)) * step

    def unfit(self, row: int) -> str | None:
        """Why a row of so many weights cannot have it, or None."""
        kept = self.columns(row)
        if kept < row:
            return None
        return f"{self} keeps {kept} columns, and its rows have {row:,} weights"

    def __str__(self) -> str:
        return f"{self.percent}%{self.format}"


PATTERN = "[1-9][0-9]?%(int8|bf16)"
"""Of names, as ECMA-262 and Python read it."""

KNOWN = (
    "Shares of salient columns are whole percents and what the columns are kept in, int8 or bf16, "
    "as 2%int8."
)

_NAME = re.compile(r"(?P<percent>[1-9][0-9]?)%(?P<format>int8|bf16)")
