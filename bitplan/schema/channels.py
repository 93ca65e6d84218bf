"""Which share of a matrix's input columns is zero: a part of a scheme."""

import re
from dataclasses import dataclass

from bitplan.errors import SchemeError
from bitplan.schema.salient import FEW, MANY


@dataclass(frozen=True, kw_only=True)
class Channels:
    """About `percent` of the input columns, the same for all rows, are zero and take no code.

    What is left is a narrower matrix, stored in the scheme without this; a bit a column says which
    are in it.

    >>> Channels.parse("25%ch")
    Channels(percent=25)
    >>> str(Channels.parse("25%ch"))
    '25%ch'
    """

    percent: int

    @classmethod
    def parse(cls, name: str) -> "Channels":
        """The share of a name. Raises `SchemeError` where there is none."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise SchemeError(f"{name!r} is no share of columns left out. {KNOWN}")
        return cls(percent=int(match["percent"]))

    def left_out(self, row: int) -> int:
        """Columns that are zero: the share, rounded to whole eights, or 32s.

        >>> [Channels.parse("25%ch").left_out(row) for row in (64, 576, 1536, 4096)]
        [16, 160, 384, 1024]
        """
        step = FEW if row * self.percent < 100 * MANY else MANY
        return (2 * row * self.percent + 100 * step) // (200 * step) * step

    def kept(self, row: int) -> int:
        """Columns of the matrix that is stored."""
        return row - self.left_out(row)

    def unfit(self, row: int) -> str | None:
        """Why a row of so many weights cannot have it, or None."""
        gone = self.left_out(row)
        if 0 < gone < row:
            return None
        what = "leaves out none" if gone == 0 else f"leaves out {gone}"
        return f"{self} of columns, in eights, {what}, and its rows have {row:,} weights"

    def __str__(self) -> str:
        return f"{self.percent}%ch"


PATTERN = "[1-9][0-9]?%ch"
"""Of names, as ECMA-262 and Python read it."""

KNOWN = "Shares of columns left out are whole percents and ch, for channels, as 25%ch."

_NAME = re.compile(r"(?P<percent>[1-9][0-9]?)%ch")
