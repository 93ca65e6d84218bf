"""The product of some rows of a weight with some tokens over one panel: see `layout`.

For few tokens, weights are codes and nothing else while they are multiplied: within a group,
output = scale * sum(x (q - half)) + offset * sum(x). Tensor cores make both sums, so a code costs
no arithmetic of its own. For many tokens a weight is made once for all of them, from the code,
scale and offset in float32, rounded to the inputs' dtype as the reference does.

Rows of the weight take the side of a tensor core's tile that is long, tokens the one that may be
short; and weights come to it from registers.
"""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false

import triton
import triton.language as tl

from bitplan.kernels.gpu.unpack import (
    load_grid,
    load_inputs,
    numbers,
    product,
    scale_and_offset,
)


@triton.jit
def add_group(
    words,
    inputs,
    grid,
    index,
    own,
    m,
    rows,
    count,
    stride,
    column,
    total,
    part,
    shared,
    stored,
    NUMBER: tl.constexpr,
    PAIRS: tl.constexpr,
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
    """Add the products of the columns of a panel that lie in its group of a number.

    The panel begins at `column`, and has `PAIRS` pairs a group; `index` is the group's in the row.
    Where a row is one group, `part` and `shared` go on from one panel to the next.
    """
    DTYPE: tl.constexpr = inputs.dtype.element_ty
    PAIRED: tl.constexpr = SYMMETRIC and grid.dtype.element_ty != tl.bfloat16
    AT_ONCE: tl.constexpr = min(4, PAIRS)
    if GROUP != 0:
        part = tl.zeros_like(total)
        shared = tl.zeros_like(total)
        if not PAIRED or CELLS < 8 or NUMBER % 2 == 0:
            stored = load_grid(grid, index, own, rows, PAIRED)
    scale, offset = scale_and_offset(stored, index if CELLS < 8 else NUMBER, SYMMETRIC)
    for dot in tl.static_range(PAIRS // AT_ONCE):
        x = load_inputs(
            inputs, m, count, stride, column, NUMBER * PAIRS + dot * AT_ONCE, CELLS, AT_ONCE
        )
        weights = numbers(
            words,
            NUMBER * PAIRS + dot * AT_ONCE,
            AT_ONCE,
            BITS,
            TARGET,
            CENTRED,
            CUDA,
            DTYPE,
            BLOCK_N,
        )
        weights = tl.reshape(weights, [BLOCK_N, 16 * AT_ONCE])
        if MANY:
            factor = scale * UNIT
            weights = weights.to(tl.float32) * factor[:, None]
            if SYMMETRIC:
                weights -= (factor * ZERO)[:, None]
            else:
                weights += (offset - factor * ZERO)[:, None]
            total = product(weights.to(DTYPE), x, total)
        else:
            if not SYMMETRIC:
                shared = product(tl.full([BLOCK_N, 16 * AT_ONCE], 1.0 / UNIT, DTYPE), x, shared)
            elif not CENTRED:
                part = product(tl.full([BLOCK_N, 16 * AT_ONCE], -ZERO, DTYPE), x, part)
            part = product(weights, x, part)
    if not MANY and GROUP != 0:
        total = weigh(total, part, shared, scale, offset, SYMMETRIC, ZERO, UNIT)
    return total, part, shared, stored


@triton.jit
def weigh(
    total,
    part,
    shared,
    scale,
    offset,
    SYMMETRIC: tl.constexpr,
    ZERO: tl.constexpr,
    UNIT: tl.constexpr,
):
    """The total, in units of `UNIT`, with a group's product added."""
    total += scale[:, None] * part
    if not SYMMETRIC:
        total += (offset - ZERO * UNIT * scale)[:, None] * shared
    return total
