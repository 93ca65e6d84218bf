"""Bits of codes in words, at the same place of both halves: see `layout`, and `trits` of digits."""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def moved(words, DISTANCE: tl.constexpr):
    """Words shifted to the right, or to the left by what is below 0."""
    if DISTANCE > 0:
        return words >> DISTANCE
    elif DISTANCE < 0:
        return words << -DISTANCE
    else:
        return words


@triton.jit
def field(words, FIRST: tl.constexpr, BITS: tl.constexpr, TARGET: tl.constexpr):
    """Some bits of both halves' streams, the first of them at bit `TARGET` of each half."""
    WORD: tl.constexpr = FIRST // 16
    START: tl.constexpr = FIRST % 16
    if START + BITS <= 16:
        MASK: tl.constexpr = ((2**BITS - 1) << TARGET) * 0x10001
        return moved(words[WORD], START - TARGET) & MASK
    else:
        LOW: tl.constexpr = 16 - START
        LOWER: tl.constexpr = ((2**LOW - 1) << TARGET) * 0x10001
        UPPER: tl.constexpr = ((2 ** (BITS - LOW) - 1) << (TARGET + LOW)) * 0x10001
        lower = moved(words[WORD], START - TARGET) & LOWER
        return lower | (words[WORD + 1] << (TARGET + LOW)) & UPPER


@triton.jit
def digits(words, PAIR: tl.constexpr, TARGET: tl.constexpr):
    """Ternary codes of both halves, the lower bit at bit `TARGET`.

    What codes of a byte share is written for each, and compiled once.
    """
    BYTE: tl.constexpr = PAIR // 5
    rest = moved(words[BYTE // 2], BYTE % 2 * 8) & 0x00FF00FF
    for _ in tl.static_range(PAIR % 5):
        rest = rest * 3 & 0x00FF00FF
    return moved(rest * 3, 8 - TARGET) & (3 << TARGET) * 0x10001
