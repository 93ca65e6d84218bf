"""Which weights of a row are zero and take no code: a part of a scheme."""

import re
from dataclasses import dataclass
from math import comb

from bitplan.errors import SchemeError

BLOCKS = (2, 4, 8)
"""Weights of which some are kept, in N:M sparsity."""


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """Of every `block` weights `kept` are kept, wherever they lie; or `percent` of a row are zero.

    >>> Sparsity.parse("2:4")
    Sparsity(kept=2, block=4, percent=None)
    >>> str(Sparsity.parse("50%"))
    '50%'
    """

    kept: int | None = None
    block: int | None = None
    percent: int | None = None

    @classmethod
    def parse(cls, name: str) -> "Sparsity":
        """The sparsity of a name. Raises `SchemeError` where there is none."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise SchemeError(f"{name!r} is no sparsity. {KNOWN}")
        if match["percent"]:
            return cls(percent=int(match["percent"]))
        kept, block = int(match["kept"]), int(match["block"])
        if kept >= block:
            raise SchemeError(f"{name!r} keeps every weight. {KNOWN}")
        return cls(kept=kept, block=block)

    def columns(self, row: int) -> int:
        """Weights that are kept of a row.

        >>> Sparsity.parse("2:4").columns(64), Sparsity.parse("30%").columns(64)
        (32, 45)
        """
        if self.percent is not None:
            return row - row * self.percent // 100
        assert self.block is not None
        assert self.kept is not None
        return row // self.block * self.kept

    @property
    def code_bits(self) -> int:
        """Bits that tell which of a block are kept; of an unstructured row, whether one weight is.

        >>> [Sparsity.parse(name).code_bits for name in ("50%", "2:4", "1:4", "4:8")]
        [1, 3, 2, 7]
        """
        if self.block is None:
            return 1
        assert self.kept is not None
        return (comb(self.block, self.kept) - 1).bit_length()

    def unfit(self, row: int) -> str | None:
        """Why a row of so many weights cannot have it, or None."""
        if self.block is not None and row % self.block:
            return f"{self} needs rows in {self.block}s, and these have {row:,} weights"
        return None if self.columns(row) < row else f"{self} of a row of {row:,} weights is none"

    def __str__(self) -> str:
        return f"{self.kept}:{self.block}" if self.percent is None else f"{self.percent}%"


PATTERN = "(1:[248]|[23]:[48]|[4-7]:8|[1-9][0-9]?%)"
"""Of names, as ECMA-262 and Python read it."""

KNOWN = (
    f"Sparsities are N:M, with N of every M weights kept and M {', '.join(map(str, BLOCKS[:-1]))} "
    f"or {BLOCKS[-1]}, as 2:4, and whole percents that are zero, as 50%."
)

_NAME = re.compile(
    rf"(?P<kept>[1-7]):(?P<block>[{''.join(map(str, BLOCKS))}])|(?P<percent>[1-9][0-9]?)%"
)
