"""Codes out of words in registers, as numbers that tensor cores take: see `layout`.

A code becomes a floating-point number by its bits alone: put into the mantissa of 1.0, code q at
bit T of a mantissa of M bits is 1 + q 2^(T-M), exactly. So two codes cost a shift, a mask with the
exponent put in, and nothing else; the 1 is subtracted again a group at a time. Bfloat16's mantissa
has no room for 8 bits: there codes are centred, q - 128, one at a time.
"""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def product(left, right, total):
    """`total` + left @ right in float32; numpy, which interprets it, has no bfloat16."""
    if INTERPRETED:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total)
    else:
        return tl.dot(left, right, total)


@triton.jit
def _moved(words, DISTANCE: tl.constexpr):
    if DISTANCE > 0:
        return words >> DISTANCE
    elif DISTANCE < 0:
        return words << -DISTANCE
    else:
        return words


@triton.jit
def _field(words, PAIR: tl.constexpr, BITS: tl.constexpr, TARGET: tl.constexpr):
    """The code of a pair's number in both halves of its word, at bit `TARGET` of each half."""
    WORD: tl.constexpr = PAIR * BITS // 16
    START: tl.constexpr = PAIR * BITS % 16
    if START + BITS <= 16:
        MASK: tl.constexpr = ((2**BITS - 1) << TARGET) * 0x10001
        return _moved(words[WORD], START - TARGET) & MASK
    else:
        LOW: tl.constexpr = 16 - START
        LOWER: tl.constexpr = ((2**LOW - 1) << TARGET) * 0x10001
        UPPER: tl.constexpr = ((2 ** (BITS - LOW) - 1) << (TARGET + LOW)) * 0x10001
        lower = _moved(words[WORD], START - TARGET) & LOWER
        return lower | (words[WORD + 1] << (TARGET + LOW)) & UPPER


@triton.jit
def _with_exponent(field, word, EXPONENT: tl.constexpr, CUDA: tl.constexpr):
    """Put an exponent into both halves of words. `word` is any that has been read."""
    if CUDA:
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
    elif INTERPRETED:
        return field | EXPONENT
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
def _pairs(
    words,
    PAIR: tl.constexpr,
    BITS: tl.constexpr,
    TARGET: tl.constexpr,
    CENTRED: tl.constexpr,
    CUDA: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """[rows, cells, 2]: the numbers of a pair's codes."""
    field = _field(words, PAIR, BITS, TARGET)
    if CENTRED:
        lower = _centred(field & 0xFFFF, BITS, DTYPE)
        upper = _centred(field >> 16, BITS, DTYPE)
    else:
        number = _with_exponent(
            field, words[0], 0x3F803F80 if tl.bfloat16 == DTYPE else 0x3C003C00, CUDA
        )
        lower = number.to(tl.uint16).to(DTYPE, bitcast=True)
        upper = (number >> 16).to(tl.uint16).to(DTYPE, bitcast=True)
    return tl.join(lower, upper)


@triton.jit
def numbers(
    words,
    PAIR: tl.constexpr,
    PAIRS: tl.constexpr,
    BITS: tl.constexpr,
    TARGET: tl.constexpr,
    CENTRED: tl.constexpr,
    CUDA: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """[rows, pairs, 16]: the numbers of some pairs' codes, each pair's cells padded to 8.

    `words` are as many tensors [rows, 8] of uint32 as there are bits.
    """
    if PAIRS == 1:
        pairs = _pairs(words, PAIR, BITS, TARGET, CENTRED, CUDA, DTYPE)
        return tl.reshape(pairs, [ROWS, 1, 16])
    else:
        HALF: tl.constexpr = PAIRS // 2
        first = numbers(words, PAIR, HALF, BITS, TARGET, CENTRED, CUDA, DTYPE, ROWS)
        other = numbers(words, PAIR + HALF, HALF, BITS, TARGET, CENTRED, CUDA, DTYPE, ROWS)
        both = tl.permute(tl.join(first, other), (0, 3, 1, 2))
        return tl.reshape(both, [ROWS, PAIRS, 16])


@triton.jit
def load_words(codes, n, rows, panel, BITS: tl.constexpr, CELLS: tl.constexpr):
    """The words of some rows in one panel: `BITS` tensors [rows, 8] of uint32.

    `codes` points to the section's first word; rows `n` are all there.
    """
    cells = tl.arange(0, 8)
    # What the loop changes is a scalar, added to what it does not.
    places = codes + n.to(tl.int64)[:, None] * CELLS + cells[None, :]
    words = ()
    for word in tl.static_range(BITS):
        start = tl.cast(panel * BITS + word, tl.int64) * (rows * CELLS)
        if CELLS == 8:
            loaded = tl.load(places + start)
        else:
            loaded = tl.load(places + start, mask=(cells < CELLS)[None, :], other=0)
        # Triton unpacks no tuple into another.
        words = words + (loaded.to(tl.uint32, bitcast=True),)  # noqa: RUF005
    return words


@triton.jit
def load_inputs(
    inputs,
    m,
    count,
    stride,
    column,
    PAIR: tl.constexpr,
    CELLS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """[16 pairs, tokens]: the inputs of some pairs' columns in a panel that begins at `column`.

    Zero where there are no such cells.
    """
    k = tl.arange(0, 16 * PAIRS)
    tokens = inputs + m.to(tl.int64)[None, :] * stride
    if CELLS == 8:
        places = tokens + k[:, None] + column + PAIR * 16
        return tl.load(places, mask=(m < count)[None, :], other=0.0)
    else:
        columns = (PAIR + k // 16) * (2 * CELLS) + k % 16
        present = (m < count)[None, :] & (k % 16 < 2 * CELLS)[:, None]
        return tl.load(tokens + columns[:, None] + column, mask=present, other=0.0)


@triton.jit
def load_grid(grid, group, own, rows, PAIRED: tl.constexpr):
    """The grid of some rows in a group, as it is stored; 0 beyond the last row.

    Words of 32 bits, a scale and an offset or the scales of two groups, for only whole words are
    read ahead; or single scales.
    """
    if PAIRED:
        group = group // 2
    return tl.load(grid + tl.cast(group, tl.int64) * rows + own, mask=own < rows, other=0)


@triton.jit
def scale_and_offset(stored, group, SYMMETRIC: tl.constexpr):
    """Both of each row in float32; the scale twice, where there is no offset."""
    if stored.dtype == tl.bfloat16:
        scale = stored.to(tl.float32)
        return scale, scale
    else:
        first = (stored << 16).to(tl.float32, bitcast=True)
        second = (stored & 0xFFFF0000).to(tl.float32, bitcast=True)
        if SYMMETRIC:
            scale = first if group % 2 == 0 else second
            return scale, scale
        else:
            return first, second
