"""The kernels: a product with codes over panels of columns, and the sum of such products."""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false

import triton
import triton.language as tl

from bitplan.kernels.gpu.panel import add_group, weigh
from bitplan.kernels.gpu.unpack import load_grid, load_words, scale_and_offset


@triton.jit(do_not_specialize=["panels_each"])
def matmul(
    inputs,
    codes,
    grid,
    outputs,
    rows,
    count,
    stride,
    panels_each,
    COLUMNS: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    TARGET: tl.constexpr,
    CENTRED: tl.constexpr,
    CUDA: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    ZERO: tl.constexpr,
    UNIT: tl.constexpr,
    MANY: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Products of `BLOCK_M` of `count` tokens with `BLOCK_N` rows: [splits, tokens, rows].

    Programs are [blocks of rows, splits, blocks of tokens]; a split has `panels_each` panels, and
    the last of them also what is no whole panel. `GROUP` is 0 where a row is one group.
    """
    PANELS: tl.constexpr = COLUMNS // 256
    GROUPS: tl.constexpr = 1 if GROUP == 0 else 256 // GROUP
    split = tl.program_id(1)
    own = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows beyond the last are read as the last: that takes no mask. They are not stored.
    n = tl.minimum(own, rows - 1)
    m = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    part = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    shared = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    stored = load_grid(grid, 0, own, rows, False)
    first = split * panels_each
    for panel in tl.range(first, tl.minimum(first + panels_each, PANELS), num_stages=STAGES):
        words = load_words(codes, n, rows, panel, BITS, 8)
        within = stored
        for group in tl.static_range(GROUPS):
            total, part, shared, within = add_group(
                words,
                inputs,
                grid,
                panel * GROUPS + group,
                own,
                m,
                rows,
                count,
                stride,
                panel * 256,
                total,
                part,
                shared,
                within,
                NUMBER=group,
                PAIRS=16 // GROUPS,
                CELLS=8,
                BITS=BITS,
                GROUP=GROUP,
                TARGET=TARGET,
                CENTRED=CENTRED,
                CUDA=CUDA,
                SYMMETRIC=SYMMETRIC,
                ZERO=ZERO,
                UNIT=UNIT,
                MANY=MANY,
                BLOCK_N=BLOCK_N,
            )
    # Known when it is compiled, and so apart from what is not.
    if COLUMNS % 256 != 0:  # noqa: SIM102
        if split == tl.num_programs(1) - 1:
            for section in tl.static_range(3):
                if COLUMNS % (256 >> section) >= (128 >> section):
                    total, part, shared = add_rest(
                        inputs,
                        codes,
                        grid,
                        own,
                        n,
                        m,
                        rows,
                        count,
                        stride,
                        total,
                        part,
                        shared,
                        stored,
                        COLUMN=COLUMNS // (256 >> section) * (256 >> section),
                        CELLS=4 >> section,
                        BITS=BITS,
                        GROUP=GROUP,
                        TARGET=TARGET,
                        CENTRED=CENTRED,
                        CUDA=CUDA,
                        SYMMETRIC=SYMMETRIC,
                        ZERO=ZERO,
                        UNIT=UNIT,
                        MANY=MANY,
                        BLOCK_N=BLOCK_N,
                    )
    if not MANY:
        if GROUP == 0:
            scale, offset = scale_and_offset(stored, 0, SYMMETRIC)
            total = weigh(total, part, shared, scale, offset, SYMMETRIC, ZERO, UNIT)
        total *= UNIT
    tokens = split.to(tl.int64) * count + m
    places = outputs + tokens[None, :] * rows + own[:, None]
    tl.store(places, total, mask=(own < rows)[:, None] & (m < count)[None, :])


@triton.jit
def add_rest(
    inputs,
    codes,
    grid,
    own,
    n,
    m,
    rows,
    count,
    stride,
    total,
    part,
    shared,
    stored,
    COLUMN: tl.constexpr,
    CELLS: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    TARGET: tl.constexpr,
    CENTRED: tl.constexpr,
    CUDA: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    ZERO: tl.constexpr,
    UNIT: tl.constexpr,
    MANY: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Add the one panel of `CELLS` cells that begins at a column."""
    PAIRS: tl.constexpr = 16 if GROUP == 0 else min(16, GROUP // (2 * CELLS))
    start = codes + tl.cast(rows, tl.int64) * (COLUMN // 32 * BITS)
    words = load_words(start, n, rows, 0, BITS, CELLS)
    for group in tl.static_range(16 // PAIRS):
        total, part, shared, stored = add_group(
            words,
            inputs,
            grid,
            0 if GROUP == 0 else COLUMN // GROUP + group,
            own,
            m,
            rows,
            count,
            stride,
            COLUMN,
            total,
            part,
            shared,
            stored,
            NUMBER=group,
            PAIRS=PAIRS,
            CELLS=CELLS,
            BITS=BITS,
            GROUP=GROUP,
            TARGET=TARGET,
            CENTRED=CENTRED,
            CUDA=CUDA,
            SYMMETRIC=SYMMETRIC,
            ZERO=ZERO,
            UNIT=UNIT,
            MANY=MANY,
            BLOCK_N=BLOCK_N,
        )
    return total, part, shared


@triton.jit
def reduce(parts, outputs, size, copies, BLOCK: tl.constexpr):
    """Sum [copies, size] over the copies, in their order, into the outputs' dtype."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for copy in range(copies):
        total += tl.load(parts + copy * tl.cast(size, tl.int64) + place, mask=place < size, other=0)
    tl.store(outputs + place, total, mask=place < size)
