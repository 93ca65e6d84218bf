"""The kept codes of eight columns, brought to them.

They come as bytes, and eight nibbles say whose each is: the instruction that puts bytes together
(see `lookup`) does the rest. A column without a code gets the last byte, which then is a constant:
the code of zero, where there is one.
"""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl

from bitplan.kernels.gpu.lookup import put_together


@triton.jit
def ranks_of(is_kept, EIGHT: tl.constexpr):
    """By nibbles, how many codes come before each column's, or 7; and how many there are."""
    bits = (is_kept >> EIGHT) & 0x11111111
    # Each nibble is how many there are up to its column, and the next how many before it.
    sums = bits * 0x11111111
    return (sums << 4) | (bits ^ 0x11111111) * 7, sums >> 28


@triton.jit
def to_columns(low, high, places, SPEC: tl.constexpr):
    """Two words of four pairs' codes: of the bytes of two words those at the places, by nibbles."""
    if SPEC.cuda:
        lower = put_together(low, high, places, SPEC)
        upper = put_together(low, high, places >> 16, SPEC)
    else:
        lower = put_together(low, high, by_bytes(places & 0xFFFF), SPEC)
        upper = put_together(low, high, by_bytes(places >> 16), SPEC)
    return (lower & 0xFFFF) | (upper << 16), (lower >> 16) | (upper & 0xFFFF0000)


@triton.jit
def by_bytes(nibbles):
    """Four nibbles as bytes."""
    halves = (nibbles | (nibbles << 8)) & 0x00FF00FF
    return (halves | (halves << 4)) & 0x0F0F0F0F


@triton.jit
def bits_at(words, FIRST: tl.constexpr, BITS: tl.constexpr):
    """Some bits of a stream of words."""
    WORD: tl.constexpr = FIRST // 32
    START: tl.constexpr = FIRST % 32
    if START + BITS <= 32:
        return (words[WORD] >> START) & (2**BITS - 1)
    else:
        return ((words[WORD] >> START) | (words[WORD + 1] << (32 - START))) & (2**BITS - 1)
