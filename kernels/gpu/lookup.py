"""Codes of 3 and 4 bits out of words through a table of 16-bit numbers that lies in registers.

Both CUDA's and AMD's have an instruction that puts together four bytes out of eight, any of them
(`prmt`, `v_perm_b32`): a table of eight bytes, read for four codes at once. High and low bytes have
a table each, 16 codes two of them, between which the codes' highest bits decide. CUDA's takes the
places from the nibbles of half a word, AMD's from the bytes of a whole one: so four pairs' codes,
at the nibbles of a word, are read two pairs at once, pairs 0 and 1 on CUDA, 0 and 2 on AMD.
"""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl

from bitplan.kernels.gpu.fields import INTERPRETED, field


@triton.jit
def looked_up(words, own, PAIR: tl.constexpr, SPEC: tl.constexpr):
    """Words of the two numbers of a pair's codes.

    What several pairs share is written for each, and compiled once. `own` are the lower and the
    upper byte, [rows, 1], of the entry that each row has of its own, or None.
    """
    PLACE: tl.constexpr = PAIR % 4
    TWO: tl.constexpr = PLACE // 2 if SPEC.cuda else PLACE % 2
    codes = _nibbles(words, PAIR // 4 * 4, SPEC.bits, SPEC.pitch)
    if SPEC.cuda:
        # Nibbles of pairs 0 and 1 in the lower half, of 2 and 3 in the upper one.
        codes = put_together(codes, codes, 0x3120, SPEC)
        places = (codes & 0x77777777) >> (16 * TWO)
        above = ((codes >> 3) & 0x11111111) >> (16 * TWO)
    else:
        codes = codes >> (4 * TWO)
        places = codes & 0x07070707
        above = (codes >> 3) & 0x01010101
    if own is None:
        low = _entries(places, above, SPEC.numbers.low, None, SPEC)
        high = _entries(places, above, SPEC.numbers.high, None, SPEC)
    else:
        low = _entries(places, above, SPEC.numbers.low, own[0], SPEC)
        high = _entries(places, above, SPEC.numbers.high, own[1], SPEC)
    # Bytes are of the first pair's and the second's lower half, and of their upper halves.
    SECOND: tl.constexpr = (PLACE % 2 if SPEC.cuda else PLACE // 2) == 1
    if SPEC.cuda:
        return put_together(low, high, 0x7351 if SECOND else 0x6240, SPEC)
    else:
        return put_together(low, high, 0x07030501 if SECOND else 0x06020400, SPEC)


@triton.jit
def _nibbles(words, PAIR: tl.constexpr, BITS: tl.constexpr, PITCH: tl.constexpr):
    """The codes of four pairs at the nibbles of both halves."""
    if PITCH == 4:
        return words[PAIR // 4]
    else:
        codes = field(words, PAIR * PITCH, BITS, 0)
        for other in tl.static_range(1, 4):
            codes |= field(words, (PAIR + other) * PITCH, BITS, 4 * other)
        return codes


@triton.jit
def _word(TABLE: tl.constexpr, WORD: tl.constexpr, own, SPEC: tl.constexpr):
    """A word of a table, with the byte in it that a row has of its own."""
    if own is None or SPEC.numbers.chosen // 4 != WORD:
        return TABLE[WORD]
    else:
        return own << SPEC.numbers.chosen % 4 * 8 | TABLE[WORD]


@triton.jit
def _entries(places, above, TABLE: tl.constexpr, own, SPEC: tl.constexpr):
    """Four bytes of a table of 8 or 16, which words hold."""
    lower = put_together(_word(TABLE, 0, own, SPEC), _word(TABLE, 1, own, SPEC), places, SPEC)
    if len(TABLE) == 2:
        return lower
    else:
        upper = put_together(_word(TABLE, 2, own, SPEC), _word(TABLE, 3, own, SPEC), places, SPEC)
        is_upper = put_together(0x0000FF00, 0, above, SPEC)
        return (lower & ~is_upper) | (upper & is_upper)


@triton.jit
def put_together(low, high, places, SPEC: tl.constexpr):
    """The bytes at four places of the eight of two words, the low one's first."""
    if INTERPRETED:
        return _by_hand(low, high, places, 4 if SPEC.cuda else 8)
    elif SPEC.cuda:
        return tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;",
            "=r,r,r,r",
            [low, high, places],
            dtype=tl.uint32,
            is_pure=True,
            pack=1,
        )
    else:
        return tl.inline_asm_elementwise(
            "v_perm_b32 $0, $1, $2, $3",
            "=v,v,v,v",
            [high, low, places],
            dtype=tl.uint32,
            is_pure=True,
            pack=1,
        )


@triton.jit
def _by_hand(low, high, places, STEP: tl.constexpr):
    """What the instructions do, for the interpreter."""
    low, high = tl.cast(low, tl.uint32), tl.cast(high, tl.uint32)
    found = tl.zeros_like(low)
    for byte in tl.static_range(4):
        place = tl.cast(places, tl.uint32) >> (STEP * byte) & 7
        word = tl.where(place < 4, low, high)
        found = found | (((word >> (place % 4 * 8)) & 0xFF) << (8 * byte))
    return found
