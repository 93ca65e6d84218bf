"""How the Triton kernels find the codes of weights that are kept: see `sparse_layout`."""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from bitplan.schema import Scheme

EIGHTS = 4
"""Runs of eight columns in a cell."""

PITCH = 8
"""Bits from one code to the next, of those that are spread over their columns."""


MOST_OF_STREAM = 1 << 16
"""Columns of a row whose codes are one stream: where a panel's begin is told in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A constant of the kernels, read by Triton as it is.

    - `all`: every column has its code;
    - `blocks`: `pairs` that follow each other are a block, and `codes` of eight columns are kept.
      Bytes of `whole` words have their codes, or the first bits of them; `rest` bits of each byte
      more are the first of the tail, and `pattern_bits` of each block the others. The tail is a
      word of 32 bits where `has_word`, one of 16 where `has_half`, and one of 8 where `has_byte`;
    - `bits`: a word of a cell says which are kept, and a row's codes are a stream of `row_words`.
    """

    kind: Literal["all", "blocks", "bits"] = "all"
    pairs: int = 1
    codes: int = 0
    pattern_bits: int = 0
    whole: int = 0
    rest: int = 0
    has_word: bool = False
    has_half: bool = False
    has_byte: bool = False
    row_words: int = 0

    @property
    def words(self) -> int:
        """Words of 32 bits that each cell has."""
        return 1 if self.kind == "bits" else self.whole + self.has_word

    @property
    def masks(self) -> tuple[int, ...]:
        """Of every pattern the mask of a cell whose blocks all have it, see `sparse_layout`.

        >>> [f"{mask:08x}" for mask in kept_of(Scheme.parse("int4g64+2:4")).masks][:2]
        ['0f0f0f0f', '0000ffff']
        """
        block = 2 * self.pairs
        # Column 2 r + h of a block is in pairs r, R + r and so on of the half h of every eight.
        nibbles = [
            sum(0xF << 4 * (pair + 4 * (column % 2)) for pair in range(column // 2, 4, self.pairs))
            for column in range(block)
        ]
        return tuple(sum(some) for some in combinations(nibbles, self.codes * block // 8))

    @property
    def parts(self) -> dict[str, str]:
        """The tensors beside codes and grid, by the kernel's parameters."""
        if self.kind == "bits":
            return {name: name for name in ("streams", "starts")}
        if self.kind == "all":
            return {}
        is_there = {"mask16": self.has_half, "mask8": self.has_byte}
        return {name: name for name, there in is_there.items() if there}


ALL = Kept()


def kept_of(scheme: Scheme, columns: int = 0) -> Kept:
    """Of a scheme of one plane; a row's words are those of so many columns.

    >>> kept_of(Scheme.parse("int4g64+2:4")).words, kept_of(Scheme.parse("int3+50%"), 64).row_words
    (2, 3)
    """
    sparsity, bits = scheme.sparsity, int(scheme.bits)
    if sparsity is None:
        return ALL
    if sparsity.block is None:
        return Kept(kind="bits", row_words=-(-sparsity.columns(columns) * bits // 32))
    codes, pattern_bits = sparsity.columns(8), sparsity.code_bits
    whole, rest = divmod(codes * bits, 8)
    tail_bytes = -(-(EIGHTS * rest + 32 // sparsity.block * pattern_bits) // 8)
    return Kept(
        kind="blocks",
        pairs=sparsity.block // 2,
        codes=codes,
        pattern_bits=pattern_bits,
        whole=whole,
        rest=rest,
        has_word=tail_bytes >= 4,
        has_half=tail_bytes % 4 >= 2,
        has_byte=tail_bytes % 2 == 1,
    )
