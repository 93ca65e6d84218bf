"""The families of coded formats: what each of them stores, without a tensor."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is stored of a matrix whose weights are codes.

    Args:
        bits: of a weight's code, or of its codes in all planes, as they are packed.
        scale: what a group's scale is stored in: bfloat16; e8m0, a power of two; or e4m3, which
            multiplies one float32 of the whole matrix.
        group_size: weights that share a scale, where the format fixes it; None: a scheme says.
        offset: whether a group may have an offset beside its scale.
        choices: lists of values that each group has the choice of.
        planes: that a weight is the sum of, each with a code and a scale of its own.
    """

    bits: float
    scale: Literal["bf16", "e8m0", "e4m3"] = "bf16"
    group_size: int | None = None
    offset: bool = False
    choices: int = 1
    planes: int = 1

    @property
    def can_double(self) -> bool:
        """Whether its scales may be stored as codes themselves."""
        return self.scale == "bf16"

    @property
    def scale_bytes(self) -> int:
        """Bytes of a scale."""
        return 2 if self.scale == "bf16" else 1

    @property
    def is_ternary(self) -> bool:
        """Whether a code is one of three, which takes no whole bits."""
        return self.bits == self.planes * TERNARY_BITS

    @property
    def matrix_bytes(self) -> int:
        """Bytes that are stored once for a matrix."""
        return 4 if self.scale == "e4m3" else 0


INT_BITS = (2, 3, 4, 5, 6, 7, 8)
BFP_BITS = (3, 4, 5, 6, 7, 8)
TERNARY_BITS = 8 / 5

FAMILIES: dict[str, Family] = {
    **{f"int{bits}": Family(bits=bits, offset=True) for bits in INT_BITS},
    "sign": Family(bits=1),
    "ternary": Family(bits=TERNARY_BITS),
    "binary2": Family(bits=2, planes=2),
    "ternary2": Family(bits=2 * TERNARY_BITS, planes=2),
    "fp8": Family(bits=8),
    "fp8e5m2": Family(bits=8),
    "fp6": Family(bits=6),
    "fp6e3m2": Family(bits=6),
    "fp4": Family(bits=4),
    "nf4": Family(bits=4),
    "nf3": Family(bits=3),
    "bitmod4": Family(bits=4, choices=4),
    "bitmod3": Family(bits=3, choices=4),
    **{f"bfp{bits}": Family(bits=bits, scale="e8m0") for bits in BFP_BITS},
    "mxfp8": Family(bits=8, scale="e8m0", group_size=32),
    "mxfp8e5m2": Family(bits=8, scale="e8m0", group_size=32),
    "mxfp6": Family(bits=6, scale="e8m0", group_size=32),
    "mxfp6e3m2": Family(bits=6, scale="e8m0", group_size=32),
    "mxfp4": Family(bits=4, scale="e8m0", group_size=32),
    "nvfp4": Family(bits=4, scale="e4m3", group_size=16),
}
"""By the stem of their schemes' names."""

WIDE = {"int": INT_BITS, "bfp": BFP_BITS}
"""Formats of several widths: their stem ends on the bits of a code."""
