"""Rows of a weight by their numbers, as an embedding is read: see `layout`.

Numbers of codes are exact here, as sums of three of bfloat16 where a table's are not of one. So are
the steps to a weight those of the reference, and one for one what it decodes.
"""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false

import triton
import triton.language as tl

from bitplan.kernels.gpu.scales import (
    chosen_entry,
    load_choices,
    load_grid,
    load_step,
    scale_and_offset,
)
from bitplan.kernels.gpu.tile import Tile, load_words
from bitplan.kernels.gpu.unpack import numbers


@triton.jit
def look_up(tokens, planes, matrix_scale, choices, outputs, count, rows, SPECS: tl.constexpr):
    """Write the rows of `count` tokens: [tokens, columns].

    Programs are [blocks of tokens, panels], with one for what is no whole panel. Of each plane of
    `planes` are codes, grid and steps, and in `SPECS` a constant for every number that a code of it
    is the sum of; `SPEC.rows` are a program's tokens.
    """
    SPEC: tl.constexpr = SPECS[0][0]
    PANELS: tl.constexpr = SPEC.columns // SPEC.panel
    m = tl.program_id(0).to(tl.int64) * SPEC.rows + tl.arange(0, SPEC.rows)
    n = tl.load(tokens + m, mask=m < count, other=0).to(tl.int64)
    tl.device_assert((n >= 0) & (n < rows), "a row is looked up that the weight does not have")
    tiles = ()
    for plane in tl.static_range(len(SPECS)):
        grid, scale_step, offset_step = planes[plane][1], planes[plane][2], planes[plane][3]
        scale_step, offset_step = load_step(scale_step, n, SPEC), load_step(offset_step, n, SPEC)
        tile = Tile(
            None,
            grid,
            n,
            n,
            m,
            rows,
            count,
            0,
            scale_step,
            offset_step,
            choices,
            None,
            None,
            None,
            None,
        )
        tiles = tiles + (tile,)  # noqa: RUF005
    panel = tl.program_id(1)
    if panel < PANELS:
        PAIRS: tl.constexpr = SPEC.panel // 16
        write_panel(planes, tiles, panel, matrix_scale, outputs, 0, PAIRS, 8, SPECS)
    elif SPEC.trits:
        REST: tl.constexpr = SPEC.columns % SPEC.panel // 16
        write_panel(planes, tiles, 0, matrix_scale, outputs, PANELS * SPEC.panel, REST, 8, SPECS)
    else:
        write_rest(planes, tiles, matrix_scale, outputs, 4, SPECS)


@triton.jit
def write_rest(planes, tiles, matrix_scale, outputs, CELLS: tl.constexpr, SPECS: tl.constexpr):
    """Write what is no whole panel: the one of `CELLS` cells if there is, and those of fewer."""
    COLUMN: tl.constexpr = SPECS[0][0].columns // (64 * CELLS) * (64 * CELLS)
    if SPECS[0][0].columns % (64 * CELLS) >= 32 * CELLS:
        write_panel(planes, tiles, 0, matrix_scale, outputs, COLUMN, 16, CELLS, SPECS)
    if CELLS > 1:
        write_rest(planes, tiles, matrix_scale, outputs, CELLS // 2, SPECS)


@triton.jit
def write_panel(
    planes,
    tiles,
    panel,
    matrix_scale,
    outputs,
    COLUMN: tl.constexpr,
    PAIRS: tl.constexpr,
    CELLS: tl.constexpr,
    SPECS: tl.constexpr,
):
    """Write a panel of so many pairs and cells, in a section that begins at `COLUMN`.

    At once as many pairs as lie in one group: four, or those of a small one.
    """
    SPEC: tl.constexpr = SPECS[0][0]
    WORDS: tl.constexpr = (PAIRS + 9) // 10 if SPEC.trits else SPEC.bits
    BEFORE: tl.constexpr = (
        COLUMN // SPEC.panel * SPEC.bits * 8 if SPEC.trits else (COLUMN // 32 * SPEC.bits)
    )
    OF_GROUP: tl.constexpr = 4 if SPEC.group == 0 else min(4, SPEC.group // (2 * CELLS))
    AT_ONCE: tl.constexpr = OF_GROUP if PAIRS % OF_GROUP == 0 else 2
    loaded = ()
    for plane in tl.static_range(len(SPECS)):
        codes = planes[plane][0] + tl.cast(tiles[plane].rows, tl.int64) * BEFORE
        loaded = loaded + (load_words(codes, tiles[plane], panel, CELLS, WORDS),)  # noqa: RUF005
    m = tiles[0].m
    column = panel * SPEC.panel + COLUMN
    k = tl.arange(0, 16 * AT_ONCE)
    for part in tl.static_range(PAIRS // AT_ONCE):
        first = column + part * AT_ONCE * 2 * CELLS
        row = tl.zeros([SPEC.rows, 16 * AT_ONCE], tl.float32)
        for plane in tl.static_range(len(SPECS)):
            row += weights(
                loaded[plane],
                tiles[plane],
                first,
                matrix_scale,
                part * AT_ONCE,
                AT_ONCE,
                SPECS[plane],
            )
        columns = first + k // 16 * (2 * CELLS) + k % 16
        places = outputs + m[:, None] * SPEC.columns + columns[None, :]
        present = (m < tiles[0].tokens)[:, None] & (k % 16 < 2 * CELLS)[None, :]
        tl.store(places, row, mask=present)


@triton.jit
def weights(
    words, tile, column, matrix_scale, FIRST: tl.constexpr, PAIRS: tl.constexpr, SPECS: tl.constexpr
):
    """[tokens, 16 pairs]: the weights of some pairs of a plane, of one group, in float32."""
    SPEC: tl.constexpr = SPECS[0]
    index = 0 if SPEC.group == 0 else column // SPEC.group
    scale, offset = scale_and_offset(tile, load_grid(tile, index, SPEC.per), index, index, SPEC)
    own = chosen_entry(load_choices(tile, index, SPEC), index, SPEC)
    values = tl.zeros([SPEC.rows, 16 * PAIRS], tl.float32)
    for part in tl.static_range(len(SPECS)):
        of_codes = numbers(words, own, FIRST, PAIRS, SPECS[part])
        values += tl.reshape(of_codes, [SPEC.rows, 16 * PAIRS]).to(tl.float32)
    values = (values - SPEC.numbers.zero) * SPEC.numbers.unit
    if matrix_scale is not None:
        scale *= tl.load(matrix_scale)
    values *= scale[:, None]
    if not SPEC.symmetric:
        values += offset[:, None]
    return values
