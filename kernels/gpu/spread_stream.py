"""Kept codes of weights that have a bit each, spread over their columns: see `sparse_bits`."""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl

from bitplan.kernels.gpu.spread_eight import bits_at, ranks_of, to_columns


@triton.jit
def spread_stream(word, tile, panel, COLUMN: tl.constexpr, CELLS: tl.constexpr, SPEC: tl.constexpr):
    """A bit a weight: how many codes come before those of a cell is counted."""
    counts = ones_of(word).to(tl.int32)
    before = tl.cumsum(counts, 1) - counts + load_start(tile, panel, COLUMN, CELLS, SPEC)[:, None]
    stream = load_stream(tile, before, counts, SPEC)
    found = ()
    for eight in tl.static_range(4):
        ranks, count = ranks_of(word, eight)
        low, high, places = first_bytes(stream, ranks, SPEC.bits)
        high = tl.where(count == 8, high, high & 0x00FFFFFF | SPEC.numbers.absent << 24)
        found = found + to_columns(low, high, places, SPEC)
        if eight < 3:
            stream = without(stream, count, SPEC.bits)
    return found + (word,)  # noqa: RUF005


@triton.jit
def ones_of(word):
    """How many bits of a word are 1."""
    twos = word - ((word >> 1) & 0x55555555)
    fours = (twos & 0x33333333) + ((twos >> 2) & 0x33333333)
    return (((fours + (fours >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24


@triton.jit
def load_start(tile, panel, COLUMN: tl.constexpr, CELLS: tl.constexpr, SPEC: tl.constexpr):
    """How many codes of each row come before a panel."""
    # What is no whole panel has as many panels as it is sums of 128, 64 and 32 columns.
    BEFORE: tl.constexpr = COLUMN // 256 + COLUMN % 256 // 128 + COLUMN % 128 // 64
    number = panel + BEFORE
    both = tl.load(tile.starts + tl.cast(number // 2, tl.int64) * tile.rows + tile.n)
    return (both >> (number % 2 * 16)) & 0xFFFF


@triton.jit
def load_stream(tile, before, counts, SPEC: tl.constexpr):
    """Words of codes, the first of a cell's at the first bit; what follows its last is any."""
    first = before * SPEC.bits
    inside = first % 32
    most = inside + counts * SPEC.bits
    places = tile.streams + tile.n.to(tl.int64)[:, None] * SPEC.kept.row_words + first // 32
    words = ()
    BITS: tl.constexpr = SPEC.bits
    for word in tl.static_range(BITS + 1):
        loaded = tl.load(places + word, mask=most > 32 * word, other=0)
        words = words + (loaded.to(tl.uint32, bitcast=True),)  # noqa: RUF005
    found = ()
    for word in tl.static_range(BITS):
        found = found + (moved_down(words[word], words[word + 1], inside),)  # noqa: RUF005
    return found


@triton.jit
def moved_down(low, high, count):
    """The lower word of two, shifted by up to 32 bits."""
    both = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    return (both >> count.to(tl.uint64)).to(tl.uint32)


@triton.jit
def first_bytes(stream, ranks, BITS: tl.constexpr):
    """The first eight codes of a stream as bytes of two words, and where each one's rank says."""
    if BITS == 8:
        return stream[0], stream[1], ranks
    elif BITS == 4:
        # Even ones are the nibbles of one word, odd ones of the other.
        places = ((ranks >> 1) & 0x33333333) | ((ranks & 0x11111111) << 2)
        return stream[0] & 0x0F0F0F0F, (stream[0] >> 4) & 0x0F0F0F0F, places
    else:
        low = bits_at(stream, 0, BITS)
        high = bits_at(stream, 4 * BITS, BITS)
        for byte in tl.static_range(1, 4):
            low |= bits_at(stream, byte * BITS, BITS) << (8 * byte)
            high |= bits_at(stream, (4 + byte) * BITS, BITS) << (8 * byte)
        return low, high, ranks


@triton.jit
def without(stream, count, BITS: tl.constexpr):
    """What a stream has behind so many codes."""
    if BITS > 4:
        return moved_words(moved_words(stream, count * 4, BITS), count * (BITS - 4), BITS)
    else:
        return moved_words(stream, count * BITS, BITS)


@triton.jit
def moved_words(stream, count, BITS: tl.constexpr):
    """A stream shifted by up to 32 bits."""
    found = ()
    for word in tl.static_range(BITS):
        if word + 1 < BITS:
            found = found + (moved_down(stream[word], stream[word + 1], count),)  # noqa: RUF005
        else:
            found = found + (moved_down(stream[word], stream[word] * 0, count),)  # noqa: RUF005
    return found
