"""Codes out of words in registers, as numbers that tensor cores take: see `layout`.

An evenly spaced code becomes a floating-point number by its bits alone: put into the mantissa of
1.0, code q at bit T of a mantissa of M bits is 1 + q 2^(T-M), exactly. So two codes cost a shift, a
mask with the exponent put in, and nothing else; the 1 is subtracted again a group at a time.
Bfloat16's mantissa has no room for 8 bits: there codes are centred, q - 128, one at a time. A sign
is put where 1.0 has its own. Other codes: `floats` and `lookup`.
"""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl

from bitplan.kernels.gpu.fields import INTERPRETED, digits, field, moved
from bitplan.kernels.gpu.floats import floats
from bitplan.kernels.gpu.lookup import looked_up


@triton.jit
def _with_exponent(field, word, EXPONENT: tl.constexpr, CUDA: tl.constexpr):
    """Put an exponent into both halves of words. `word` is any that has been read."""
    if INTERPRETED:
        return field | EXPONENT
    elif CUDA:
        # Mask and exponent in one instruction need one of them in a register, but two constants
        # would be two instructions. The assembler keeps in a register what it cannot know to be
        # constant, for it asks the device; and the compiler, which moves what does not depend on
        # the loop out of reach of layouts, believes that this depends on a word.
        kept = tl.inline_asm_elementwise(
            "{ .reg .u32 t; mov.u32 t, %nsmid; shr.u32 t, t, 31; add.u32 $0, t, $1; }",
            "=r,r,r",
            [EXPONENT, word],
            dtype=tl.uint32,
            is_pure=True,
            pack=1,
        )
        return field | kept
    else:
        # AMD's instruction of both takes one constant at most from outside of vector registers.
        kept = tl.inline_asm_elementwise(
            "v_mov_b32 $0, $1",
            "=v,s,v",
            [EXPONENT, word],
            dtype=tl.uint32,
            is_pure=True,
            pack=1,
        )
        return field | kept


@triton.jit
def _centred(codes, BITS: tl.constexpr, DTYPE: tl.constexpr):
    # 2^23 + q has q for its last bits: cheaper than a conversion.
    number = (codes | 0x4B000000).to(tl.float32, bitcast=True)
    return (number - (8388608.0 + 2.0 ** (BITS - 1))).to(DTYPE)


@triton.jit
def _pairs(words, own, PAIR: tl.constexpr, SPEC: tl.constexpr):
    """[rows, cells, 2]: the numbers of a pair's codes."""
    BITS: tl.constexpr = SPEC.bits
    TARGET: tl.constexpr = SPEC.numbers.target
    DTYPE: tl.constexpr = tl.bfloat16 if SPEC.numbers.dtype == "bf16" else tl.float16
    if SPEC.numbers.kind == "centred":
        both = field(words, PAIR * SPEC.pitch, BITS, TARGET)
        lower = _centred(both & 0xFFFF, BITS, DTYPE)
        upper = _centred(both >> 16, BITS, DTYPE)
    else:
        if SPEC.numbers.kind == "mantissa":
            ONES: tl.constexpr = 0x3F803F80 if SPEC.numbers.dtype == "bf16" else 0x3C003C00
            if SPEC.trits:
                both = digits(words, PAIR, TARGET)
            else:
                both = field(words, PAIR * SPEC.pitch, BITS, TARGET)
            both = _with_exponent(both, words[0], ONES, SPEC.cuda)
        elif SPEC.numbers.kind == "float":
            both = floats(words, PAIR, SPEC)
        else:
            both = looked_up(words, own, PAIR, SPEC)
        lower = both.to(tl.uint16).to(DTYPE, bitcast=True)
        upper = (both >> 16).to(tl.uint16).to(DTYPE, bitcast=True)
    return tl.join(lower, upper)


@triton.jit
def marks(words, PAIR: tl.constexpr, PAIRS: tl.constexpr, WHOLE: tl.constexpr, SPEC: tl.constexpr):
    """[rows, pairs, 16] of uint16: where a code is kept 2.0, or all bits; 0 elsewhere.

    2.0 is one bit alone, of bfloat16 and of float16.
    """
    if PAIRS == 1:
        both = moved(words[8], PAIR % 4 * 4 + PAIR // 4 - (0 if WHOLE else 14))
        both = (both & 0x00010001) * 0xFFFF if WHOLE else both & 0x40004000
        pair = tl.join((both & 0xFFFF).to(tl.uint16), (both >> 16).to(tl.uint16))
        return tl.reshape(pair, [SPEC.rows, 1, 16])
    else:
        HALF: tl.constexpr = PAIRS // 2
        first = marks(words, PAIR, HALF, WHOLE, SPEC)
        other = marks(words, PAIR + HALF, HALF, WHOLE, SPEC)
        both = tl.permute(tl.join(first, other), (0, 3, 1, 2))
        return tl.reshape(both, [SPEC.rows, PAIRS, 16])


@triton.jit
def lifted(word, PATTERN: tl.constexpr, PAIRS: tl.constexpr, SPEC: tl.constexpr):
    """[rows, pairs, 16] of uint16: a pattern everywhere, in the same lanes as what words become.

    A constant alone would be multiplied in another order, and inputs be read for both.
    """
    if PAIRS == 1:
        if INTERPRETED:
            value = tl.full([SPEC.rows, 8], PATTERN, tl.uint32)
        else:
            value = tl.inline_asm_elementwise(
                "mov.u32 $0, $1;" if SPEC.cuda else "v_mov_b32 $0, $1",
                "=r,r,r" if SPEC.cuda else "=v,s,v",
                [PATTERN, word],
                dtype=tl.uint32,
                is_pure=True,
                pack=1,
            )
        value = value.to(tl.uint16)
        return tl.reshape(tl.join(value, value), [SPEC.rows, 1, 16])
    else:
        half = lifted(word, PATTERN, PAIRS // 2, SPEC)
        both = tl.permute(tl.join(half, half), (0, 3, 1, 2))
        return tl.reshape(both, [SPEC.rows, PAIRS, 16])


@triton.jit
def numbers(words, own, PAIR: tl.constexpr, PAIRS: tl.constexpr, SPEC: tl.constexpr):
    """[rows, pairs, 16]: the numbers of some pairs' codes, each pair's cells padded to 8.

    `words` are as many tensors [rows, 8] of uint32 as there are bits; `own` is what a table of each
    row has of its own, or None. Where no code is kept there is the number `nothing`.
    """
    if PAIRS == 1:
        return tl.reshape(_pairs(words, own, PAIR, SPEC), [SPEC.rows, 1, 16])
    else:
        HALF: tl.constexpr = PAIRS // 2
        first = numbers(words, own, PAIR, HALF, SPEC)
        other = numbers(words, own, PAIR + HALF, HALF, SPEC)
        both = tl.permute(tl.join(first, other), (0, 3, 1, 2))
        return tl.reshape(both, [SPEC.rows, PAIRS, 16])
