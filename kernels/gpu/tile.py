"""What a program multiplies, some rows of a weight with some tokens, and how it is read."""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

from typing import NamedTuple

import triton
import triton.language as tl

from bitplan.kernels.gpu.fields import INTERPRETED


class Tile(NamedTuple):
    """Where inputs and scales are, the rows and tokens of a program, and how many there are.

    `own` rows are the program's; of those that there are not, `n` is the last one instead, so that
    reading takes no mask. Steps, if any, multiply scales and offsets of each row; `choices`, if
    any, are where groups say which table is theirs; the others are those of `Kept`.
    """

    inputs: tl.tensor
    grid: tl.tensor
    own: tl.tensor
    n: tl.tensor
    m: tl.tensor
    rows: tl.tensor
    tokens: tl.tensor
    stride: tl.tensor
    scale_step: tl.tensor | None
    offset_step: tl.tensor | None
    choices: tl.tensor | None
    mask16: tl.tensor | None
    mask8: tl.tensor | None
    streams: tl.tensor | None
    starts: tl.tensor | None


@triton.jit
def product(left, right, total):
    """`total` + left @ right in float32; numpy, which interprets it, has no bfloat16."""
    if INTERPRETED:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total)
    else:
        return tl.dot(left, right, total)


@triton.jit
def load_words(codes, tile, panel, CELLS: tl.constexpr, BITS: tl.constexpr):
    """The words of a tile's rows in one panel: `BITS` tensors [rows, 8] of uint32.

    `codes` points to the section's first word.
    """
    cells = tl.arange(0, 8)
    # What the loop changes is a scalar, added to what it does not.
    places = codes + tile.n.to(tl.int64)[:, None] * CELLS + cells[None, :]
    words = ()
    for word in tl.static_range(BITS):
        first = tl.cast(panel * BITS + word, tl.int64) * (tile.rows * CELLS)
        if CELLS == 8:
            loaded = tl.load(places + first)
        else:
            loaded = tl.load(places + first, mask=(cells < CELLS)[None, :], other=0)
        # Triton unpacks no tuple into another.
        words = words + (loaded.to(tl.uint32, bitcast=True),)  # noqa: RUF005
    return words


@triton.jit
def load_inputs(
    tile,
    column,
    PAIR: tl.constexpr,
    PAIRS: tl.constexpr,
    CELLS: tl.constexpr,
    OF_BLOCK: tl.constexpr,
    MANY: tl.constexpr,
):
    """[16 pairs, tokens]: the inputs of some pairs' columns in a panel that begins at `column`.

    Zero where there are no such cells. `OF_BLOCK` pairs are a block: see `sparse_layout`.
    """
    k = tl.arange(0, 16 * PAIRS)
    starts = tile.inputs + tile.m.to(tl.int64)[None, :] * tile.stride
    if OF_BLOCK > 1 and CELLS == 8 and MANY:
        # Read as they lie, for there are many, and put in order on the way to shared memory.
        places = starts + k[:, None] + column + PAIR * 16
        x = tl.load(places, mask=(tile.m < tile.tokens)[None, :], other=0.0)
        TOKENS: tl.constexpr = x.shape[1]
        x = tl.reshape(x, [PAIRS // OF_BLOCK, 8, OF_BLOCK, 2 * TOKENS])
        return tl.reshape(tl.permute(x, (0, 2, 1, 3)), [16 * PAIRS, TOKENS])
    elif OF_BLOCK > 1:
        blocks = (PAIR // OF_BLOCK + k // (16 * OF_BLOCK)) * CELLS + k % 16 // 2
        columns = blocks * (2 * OF_BLOCK) + k // 16 % OF_BLOCK * 2 + k % 2
        present = (tile.m < tile.tokens)[None, :] & (k % 16 < 2 * CELLS)[:, None]
        columns = tl.multiple_of(tl.max_contiguous(columns, 2), 2)
        return tl.load(starts + columns[:, None] + column, mask=present, other=0.0)
    elif CELLS == 8:
        places = starts + k[:, None] + column + PAIR * 16
        return tl.load(places, mask=(tile.m < tile.tokens)[None, :], other=0.0)
    else:
        columns = (PAIR + k // 16) * (2 * CELLS) + k % 16
        present = (tile.m < tile.tokens)[None, :] & (k % 16 < 2 * CELLS)[:, None]
        return tl.load(starts + columns[:, None] + column, mask=present, other=0.0)
