"""A product of two thin matrices that is added to a weight: a part of a scheme."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bitplan.errors import SchemeError


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """U V, U [out, rank] and V [rank, in]: symmetric int8, a bfloat16 scale for each row of both.

    >>> LowRank.parse("r16")
    LowRank(rank=16)
    >>> str(LowRank.parse("r16"))
    'r16'
    """

    rank: int

    @classmethod
    def parse(cls, name: str) -> "LowRank":
        """The low-rank term of a name. Raises `SchemeError` where there is none."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise SchemeError(f"{name!r} is no low-rank term. {KNOWN}")
        return cls(rank=int(match["rank"]))

    def unfit(self, shape: Sequence[int]) -> str | None:
        """Why a matrix [..., out, in] cannot have it, or None."""
        if self.rank < min(shape[-2:]):
            return None
        return f"{self} is below no side of {shape[-2]:,} by {shape[-1]:,}"

    def __str__(self) -> str:
        return f"r{self.rank}"


PATTERN = "r[1-9][0-9]{0,3}"
"""Of names, as ECMA-262 and Python read it."""

KNOWN = "Low-rank terms are an r and their rank, up to 9999, as r16."

_NAME = re.compile(r"r(?P<rank>[1-9][0-9]{0,3})")
