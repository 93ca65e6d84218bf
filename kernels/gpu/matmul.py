"""The kernels: a product with codes over panels of columns, and the sum of such products."""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false

import triton
import triton.language as tl

from bitplan.kernels.gpu.panel import Stored, Sums, add_panel, add_trits, weigh
from bitplan.kernels.gpu.scales import load_choices, load_grid, load_step, scale_and_offset
from bitplan.kernels.gpu.tile import Tile


@triton.jit(do_not_specialize=["panels_each"])
def matmul(
    inputs,
    codes,
    grid,
    matrix_scale,
    scale_step,
    offset_step,
    choices,
    mask16,
    mask8,
    streams,
    starts,
    outputs,
    rows,
    count,
    stride,
    panels_each,
    SPEC: tl.constexpr,
):
    """Products of some of `count` tokens with some rows: [splits, tokens, rows].

    Programs are [blocks of rows, splits, blocks of tokens]; a split has `panels_each` panels, and
    the last of them also what is no whole panel. `matrix_scale` multiplies all, and
    steps multiply the scales and offsets of each row, `choices` are the groups', and what follows
    says which weights are kept: see `Kept`; or they are None.
    """
    multiply(
        inputs,
        codes,
        grid,
        matrix_scale,
        scale_step,
        offset_step,
        choices,
        mask16,
        mask8,
        streams,
        starts,
        outputs,
        rows,
        tl.program_id(0),
        tl.program_id(1),
        tl.num_programs(1),
        tl.program_id(2) * SPEC.tokens,
        count,
        count,
        stride,
        panels_each,
        SPEC,
    )


@triton.jit
def multiply(
    inputs,
    codes,
    grid,
    matrix_scale,
    scale_step,
    offset_step,
    choices,
    mask16,
    mask8,
    streams,
    starts,
    outputs,
    rows,
    block,
    split,
    splits,
    first_token,
    end,
    count,
    stride,
    panels_each,
    SPEC: tl.constexpr,
):
    """Products of a block of tokens, as far as they are before `end`, with a block of rows.

    Of one of so many splits of the columns. See `matmul`.
    """
    PANELS: tl.constexpr = SPEC.columns // SPEC.panel
    own = block * SPEC.rows + tl.arange(0, SPEC.rows)
    n = tl.minimum(own, rows - 1)
    m = first_token + tl.arange(0, SPEC.tokens)
    scale_step, offset_step = load_step(scale_step, n, SPEC), load_step(offset_step, n, SPEC)
    tile = Tile(
        inputs,
        grid,
        own,
        n,
        m,
        rows,
        end,
        stride,
        scale_step,
        offset_step,
        choices,
        mask16,
        mask8,
        streams,
        starts,
    )
    none = tl.zeros([SPEC.rows, SPEC.tokens], tl.float32)
    sums = Sums(none, none, none)
    stored = Stored(load_grid(tile, 0, SPEC.per), load_choices(tile, 0, SPEC))
    first = split * panels_each
    last = tl.minimum(first + panels_each, PANELS)
    for panel in tl.range(first, last, num_stages=SPEC.stages):
        if SPEC.trits:
            sums = add_trits(codes, tile, panel, sums, stored, 0, SPEC.panel // 16, SPEC)
        else:
            sums = add_panel(codes, tile, panel, sums, stored, 0, 8, SPEC)
    # Known when it is compiled, and so apart from what is not.
    if SPEC.columns % SPEC.panel != 0:  # noqa: SIM102
        if split == splits - 1:
            if SPEC.trits:
                sums = add_rest_of_trits(codes, tile, sums, stored, SPEC)
            else:
                sums = add_rest(codes, tile, sums, stored, 4, SPEC)
    total, part, shared = sums
    if not SPEC.many:
        if SPEC.group == 0:
            scale, offset = scale_and_offset(tile, stored.grid, 0, 0, SPEC)
            total = weigh(total, part, shared, scale, offset, SPEC)
        total *= SPEC.numbers.unit
    if matrix_scale is not None:
        total *= tl.load(matrix_scale)
    tokens = split.to(tl.int64) * count + m
    places = outputs + tokens[None, :] * rows + own[:, None]
    tl.store(places, total, mask=(own < rows)[:, None] & (m < end)[None, :])


@triton.jit
def add_rest(codes, tile, sums, stored, CELLS: tl.constexpr, SPEC: tl.constexpr):
    """Add what is no whole panel: the one of `CELLS` cells if there is, and the ones of fewer."""
    COLUMN: tl.constexpr = SPEC.columns // (64 * CELLS) * (64 * CELLS)
    if SPEC.columns % (64 * CELLS) >= 32 * CELLS:
        first = codes + tl.cast(tile.rows, tl.int64) * (COLUMN // 32 * SPEC.words)
        sums = add_panel(first, tile, 0, sums, stored, COLUMN, CELLS, SPEC)
    if CELLS > 1:
        sums = add_rest(codes, tile, sums, stored, CELLS // 2, SPEC)
    return sums


@triton.jit
def add_rest_of_trits(codes, tile, sums, stored, SPEC: tl.constexpr):
    """Add what is no whole panel."""
    COLUMN: tl.constexpr = SPEC.columns // SPEC.panel * SPEC.panel
    first = codes + tl.cast(tile.rows, tl.int64) * (COLUMN // SPEC.panel * SPEC.bits * 8)
    return add_trits(first, tile, 0, sums, stored, COLUMN, SPEC.columns % SPEC.panel // 16, SPEC)


@triton.jit
def reduce(parts, outputs, size, copies, BLOCK: tl.constexpr):
    """Sum [copies, size] over the copies, in their order, into the outputs' dtype."""
    reduce_block(parts, outputs, size, copies, tl.program_id(0), BLOCK)


@triton.jit
def reduce_block(parts, outputs, size, copies, block, BLOCK: tl.constexpr):
    """The sums of one block of places: see `reduce`."""
    place = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for copy in range(copies):
        total += tl.load(parts + copy * tl.cast(size, tl.int64) + place, mask=place < size, other=0)
    tl.store(outputs + place, total, mask=place < size)
