"""Kept codes of N:M sparse weights, spread over their columns: see `sparse_blocks`."""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl

from bitplan.kernels.gpu.spread_eight import bits_at, ranks_of, to_columns


@triton.jit
def spread_blocks(
    words, tile, panel, COLUMN: tl.constexpr, CELLS: tl.constexpr, SPEC: tl.constexpr
):
    """N:M: the codes of each eight are where the compiler knows."""
    CODES: tl.constexpr = SPEC.kept.codes
    ABSENT: tl.constexpr = SPEC.numbers.absent << 24
    tail = load_tail(words, tile, panel, COLUMN, CELLS, SPEC)
    lanes = lanes_of(words, tail, SPEC)
    is_kept = mask_of(tail, SPEC)
    found = ()
    for eight in tl.static_range(4):
        low = bytes_at(lanes, eight * CODES, CODES, SPEC.bits)
        if CODES > 4:
            high = bytes_at(lanes, eight * CODES + 4, CODES, SPEC.bits)
            high = high & ((1 << (8 * (CODES - 4))) - 1) | ABSENT
        else:
            high = ABSENT
        ranks, _ = ranks_of(is_kept, eight)
        found = found + to_columns(low, high, ranks, SPEC)
    return found + (is_kept,)  # noqa: RUF005


@triton.jit
def mask_of(tail, SPEC: tl.constexpr):
    """The word that says which weights of a cell are kept, of the numbers of its patterns."""
    BLOCKS: tl.constexpr = 16 // SPEC.kept.pairs
    BITS: tl.constexpr = SPEC.kept.pattern_bits
    planes = ()
    for bit in tl.static_range(BITS):
        plane = bits_at(tail, 4 * SPEC.kept.rest + bit * BLOCKS, BLOCKS)
        planes = planes + (to_places(plane, BLOCKS),)  # noqa: RUF005
    return of_patterns(planes, 0, BITS, SPEC)


@triton.jit
def to_places(plane, BLOCKS: tl.constexpr):
    """A bit of each block, at the places of all that the block has."""
    if BLOCKS == 4:
        return plane * 0x11111111
    elif BLOCKS == 8:
        return ((plane | (plane << 4)) & 0x0F0F) * 0x00110011
    else:
        return plane * 0x00010001


@triton.jit
def of_patterns(planes, FIRST: tl.constexpr, BITS: tl.constexpr, SPEC: tl.constexpr):
    """The mask of one of 2^`BITS` patterns from one on, chosen by as many bits of its number."""
    if BITS == 0:
        return tl.cast(SPEC.kept.masks[FIRST], tl.uint32)
    else:
        HALF: tl.constexpr = 1 << (BITS - 1)
        low = of_patterns(planes, FIRST, BITS - 1, SPEC)
        if len(SPEC.kept.masks) <= FIRST + HALF:
            return low
        else:
            high = of_patterns(planes, FIRST + HALF, BITS - 1, SPEC)
            return (planes[BITS - 1] & (low ^ high)) ^ low


@triton.jit
def load_tail(words, tile, panel, COLUMN: tl.constexpr, CELLS: tl.constexpr, SPEC: tl.constexpr):
    """What a cell has beside its words of codes, as one word or two."""
    if SPEC.kept.has_half:
        rest = load_halves(tile.mask16, tile, panel, COLUMN, CELLS, 8)
        if SPEC.kept.has_byte:
            rest |= load_bytes(tile, panel, COLUMN, CELLS, SPEC) << 16
    elif SPEC.kept.has_byte:
        rest = load_bytes(tile, panel, COLUMN, CELLS, SPEC)
    else:
        rest = words[0]
    if SPEC.kept.has_word:
        return words[SPEC.kept.whole], rest
    else:
        return rest, rest


@triton.jit
def load_halves(
    halves, tile, panel, COLUMN: tl.constexpr, CELLS: tl.constexpr, WIDTH: tl.constexpr
):
    """[rows, width]: 16 bits of each cell, or of two where the width is 4."""
    EACH: tl.constexpr = (CELLS * WIDTH + 7) // 8
    which = tl.arange(0, WIDTH)
    first = tl.cast(tile.rows, tl.int64) * (COLUMN // 32 * WIDTH // 8 + panel * EACH)
    places = halves + first + tile.n.to(tl.int64)[:, None] * EACH + which[None, :]
    if CELLS == 8:
        loaded = tl.load(places)
    else:
        loaded = tl.load(places, mask=(which < EACH)[None, :], other=0)
    return loaded.to(tl.uint16, bitcast=True).to(tl.uint32)


@triton.jit
def load_bytes(tile, panel, COLUMN: tl.constexpr, CELLS: tl.constexpr, SPEC: tl.constexpr):
    """8 bits of each cell.

    Two cells' at once, for the compiler gives tensor cores what it finds to be of bytes in another
    order than what is of wider words, and lanes have two cells that follow each other.
    """
    twos = load_halves(tile.mask8, tile, panel, COLUMN, CELLS, 4)
    return tl.reshape(tl.join(twos & 0xFF, twos >> 8), [SPEC.rows, 8])


@triton.jit
def lanes_of(words, tail, SPEC: tl.constexpr):
    """The words of codes, and one more of what fills no whole one."""
    if SPEC.kept.rest == 0:
        return words
    else:
        MASK: tl.constexpr = 2**SPEC.kept.rest - 1
        last = tail[0] & MASK
        for lane in tl.static_range(1, 4):
            last |= ((tail[0] >> (lane * SPEC.kept.rest)) & MASK) << (8 * lane)
        found = ()
        WHOLE: tl.constexpr = SPEC.kept.whole
        for word in tl.static_range(WHOLE):
            found = found + (words[word],)  # noqa: RUF005
        return found + (last,)  # noqa: RUF005


@triton.jit
def bytes_at(lanes, FIRST: tl.constexpr, CODES: tl.constexpr, BITS: tl.constexpr):
    """Four codes from one of a cell's on, or as many as there are, as bytes."""
    TURN: tl.constexpr = FIRST // 4
    SHIFT: tl.constexpr = FIRST % 4 * 8
    found = dealt(lanes, TURN, BITS)
    if SHIFT != 0:
        found = found >> SHIFT
        if TURN + 1 < CODES:
            found |= dealt(lanes, TURN + 1, BITS) << (32 - SHIFT)
    return found


@triton.jit
def dealt(lanes, TURN: tl.constexpr, BITS: tl.constexpr):
    """The codes of all four lanes' streams in one turn, as bytes."""
    WORD: tl.constexpr = TURN * BITS // 8
    START: tl.constexpr = TURN * BITS % 8
    if START + BITS <= 8:
        return (lanes[WORD] >> START) & ((2**BITS - 1) * 0x01010101)
    else:
        LOW: tl.constexpr = 8 - START
        lower = (lanes[WORD] >> START) & ((2**LOW - 1) * 0x01010101)
        return lower | ((lanes[WORD + 1] & ((2 ** (BITS - LOW) - 1) * 0x01010101)) << LOW)
