"""The product of some rows of a weight with some tokens over one panel: see `layout`.

For few tokens, weights are numbers of codes and nothing else while they are multiplied: within a
group, output = scale * sum(x (q - half)) + offset * sum(x). Tensor cores make both sums, so a code
costs no arithmetic of its own. For many tokens a weight is made once for all of them, from number,
scale and offset in float32, rounded to the inputs' dtype as the reference does.

Rows of the weight take the side of a tensor core's tile that is long, tokens the one that may be
short; and weights come to it from registers.
"""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false

from typing import NamedTuple

import triton
import triton.language as tl

from bitplan.kernels.gpu.scales import chosen_entry, load_choices, load_grid, scale_and_offset
from bitplan.kernels.gpu.spread import spread
from bitplan.kernels.gpu.tile import load_inputs, load_words, product
from bitplan.kernels.gpu.unpack import lifted, marks, numbers


class Sums(NamedTuple):
    """[rows, tokens] in float32: what groups add up to, and of the present group sums of products
    with codes, and of inputs."""

    total: tl.tensor
    part: tl.tensor
    shared: tl.tensor


class Stored(NamedTuple):
    """Words of the grid and of choices, of each row, that the present group's are in."""

    grid: tl.tensor
    choices: tl.tensor | None


@triton.jit
def add_panel(
    codes,
    tile,
    panel,
    sums,
    stored,
    COLUMN: tl.constexpr,
    CELLS: tl.constexpr,
    SPEC: tl.constexpr,
):
    """Add the products of a panel's columns, in a section that begins at `COLUMN`.

    `panel` is its number in its section, `codes` the section's first word. `stored` is what is
    stored of the first group, where a row is one; its sums then go on from one panel to the next.
    """
    GROUPS: tl.constexpr = 1 if SPEC.group == 0 else max(1, 32 * CELLS // SPEC.group)
    words = load_words(codes, tile, panel, CELLS, SPEC.words)
    if SPEC.kept.kind != "all":
        words = spread(words, tile, panel, COLUMN, CELLS, SPEC)
    column = panel * 256 if CELLS == 8 else COLUMN
    for number in tl.static_range(GROUPS):
        if SPEC.group == 0:
            index = 0
        elif CELLS == 8:
            index = panel * GROUPS + number
        else:
            index = column // SPEC.group + number
        sums, stored = add_group(
            tile, words, index, column, sums, stored, number, 16 // GROUPS, CELLS, SPEC
        )
    return sums


@triton.jit
def add_trits(
    codes,
    tile,
    panel,
    sums,
    stored,
    COLUMN: tl.constexpr,
    PAIRS: tl.constexpr,
    SPEC: tl.constexpr,
):
    """Add the products of a panel of ternary codes, or of `PAIRS` pairs of what is no whole one.

    Four pairs at a time, or as many as a small group has: groups of 128 columns do not end with a
    panel, and what is stored of one is read for each of its parts.
    """
    AT_ONCE: tl.constexpr = SPEC.group // 16 if SPEC.group == 16 or SPEC.group == 32 else 4
    words = load_words(codes, tile, panel, 8, (PAIRS + 9) // 10)
    column = panel * SPEC.panel + COLUMN
    for part in tl.static_range(PAIRS // AT_ONCE):
        index = 0 if SPEC.group == 0 else (column + part * AT_ONCE * 16) // SPEC.group
        sums, stored = add_group(tile, words, index, column, sums, stored, part, AT_ONCE, 8, SPEC)
    if PAIRS % AT_ONCE != 0:
        # There is an even number of them.
        index = 0 if SPEC.group == 0 else (column + (PAIRS - 2) * 16) // SPEC.group
        sums, stored = add_group(
            tile, words, index, column, sums, stored, PAIRS // 2 - 1, 2, 8, SPEC
        )
    return sums


@triton.jit
def add_group(
    tile,
    words,
    index,
    column,
    sums,
    stored,
    NUMBER: tl.constexpr,
    PAIRS: tl.constexpr,
    CELLS: tl.constexpr,
    SPEC: tl.constexpr,
):
    """Add the products of the columns of a panel that lie in its group of a number.

    The panel begins at `column`, and has `PAIRS` pairs a group; `index` is the group's in the row.
    """
    total, part, shared = sums
    grid, choices = stored
    if SPEC.group != 0:
        part = tl.zeros_like(total)
        shared = tl.zeros_like(total)
        if CELLS < 8 or SPEC.trits or NUMBER % SPEC.per == 0:
            grid = load_grid(tile, index, SPEC.per)
        if SPEC.choices_per != 0 and (CELLS < 8 or NUMBER % SPEC.choices_per == 0):
            choices = load_choices(tile, index, SPEC)
    # Where the groups of a panel fill words, which one is known when it is compiled.
    KNOWN: tl.constexpr = CELLS == 8 and not SPEC.trits and 16 // PAIRS % SPEC.per == 0
    scale, offset = scale_and_offset(tile, grid, index, NUMBER if KNOWN else index, SPEC)
    own = chosen_entry(choices, index, SPEC)
    if SPEC.many:
        total = add_weights(
            tile, words, own, column, total, scale, offset, NUMBER * PAIRS, PAIRS, CELLS, SPEC
        )
    else:
        part, shared = add_numbers(
            tile, words, own, column, part, shared, NUMBER * PAIRS, PAIRS, CELLS, SPEC
        )
        if SPEC.group != 0:
            total = weigh(total, part, shared, scale, offset, SPEC)
    return Sums(total, part, shared), Stored(grid, choices)


@triton.jit
def add_weights(
    tile,
    words,
    own,
    column,
    total,
    scale,
    offset,
    FIRST: tl.constexpr,
    PAIRS: tl.constexpr,
    CELLS: tl.constexpr,
    SPEC: tl.constexpr,
):
    """Add the products of some pairs' weights, made of their numbers before."""
    AT_ONCE: tl.constexpr = min(4, PAIRS)
    ZERO: tl.constexpr = SPEC.numbers.zero
    for dot in tl.static_range(PAIRS // AT_ONCE):
        x = load_inputs(
            tile, column, FIRST + dot * AT_ONCE, AT_ONCE, CELLS, SPEC.kept.pairs, SPEC.many
        )
        weights = numbers(words, own, FIRST + dot * AT_ONCE, AT_ONCE, SPEC)
        weights = tl.reshape(weights, [SPEC.rows, 16 * AT_ONCE])
        factor = scale * SPEC.numbers.unit
        weights = weights.to(tl.float32) * factor[:, None]
        if not SPEC.symmetric:
            weights += (offset - factor * ZERO)[:, None]
        elif ZERO != 0:
            weights -= (factor * ZERO)[:, None]
        weights = weights.to(tile.inputs.dtype.element_ty)
        if SPEC.kept.kind != "all" and (not SPEC.symmetric or SPEC.numbers.nothing != ZERO):
            mask = marks(words, FIRST + dot * AT_ONCE, AT_ONCE, True, SPEC)
            mask = tl.reshape(mask, [SPEC.rows, 16 * AT_ONCE])
            bits = weights.to(tl.uint16, bitcast=True) & mask
            weights = bits.to(weights.dtype, bitcast=True)
        total = product(weights, x, total)
    return total


@triton.jit
def add_numbers(
    tile,
    words,
    own,
    column,
    part,
    shared,
    FIRST: tl.constexpr,
    PAIRS: tl.constexpr,
    CELLS: tl.constexpr,
    SPEC: tl.constexpr,
):
    """Add the products of some pairs' numbers, and the sums of their inputs."""
    AT_ONCE: tl.constexpr = min(4, PAIRS)
    DTYPE: tl.constexpr = tile.inputs.dtype.element_ty
    for dot in tl.static_range(PAIRS // AT_ONCE):
        x = load_inputs(
            tile, column, FIRST + dot * AT_ONCE, AT_ONCE, CELLS, SPEC.kept.pairs, SPEC.many
        )
        codes = numbers(words, own, FIRST + dot * AT_ONCE, AT_ONCE, SPEC)
        codes = tl.reshape(codes, [SPEC.rows, 16 * AT_ONCE])
        if SPEC.kept.kind != "all":
            if not SPEC.symmetric or SPEC.numbers.zero != SPEC.numbers.nothing:
                twos = marks(words, FIRST + dot * AT_ONCE, AT_ONCE, False, SPEC)
                twos = tl.reshape(twos, [SPEC.rows, 16 * AT_ONCE]).to(DTYPE, bitcast=True)
                shared = product(twos, x, shared)
            if SPEC.numbers.nothing != 0:
                nothings = lifted(words[8], SPEC.numbers.less, AT_ONCE, SPEC)
                nothings = tl.reshape(nothings, [SPEC.rows, 16 * AT_ONCE]).to(DTYPE, bitcast=True)
                part = product(nothings, x, part)
        elif not SPEC.symmetric:
            ones = tl.full([SPEC.rows, 16 * AT_ONCE], 1.0 / SPEC.numbers.unit, DTYPE)
            shared = product(ones, x, shared)
        elif SPEC.numbers.zero != 0:
            zeros = tl.full([SPEC.rows, 16 * AT_ONCE], -SPEC.numbers.zero, DTYPE)
            part = product(zeros, x, part)
        part = product(codes, x, part)
    return part, shared


@triton.jit
def weigh(total, part, shared, scale, offset, SPEC: tl.constexpr):
    """The total, in units of the numbers', with a group's product added."""
    total += scale[:, None] * part
    if SPEC.kept.kind != "all":
        # Numbers are less the one that is where no weight is kept, and inputs are summed twice
        # where one is.
        LESS: tl.constexpr = (SPEC.numbers.nothing - SPEC.numbers.zero) / 2
        if not SPEC.symmetric:
            total += (offset * (0.5 / SPEC.numbers.unit) + LESS * scale)[:, None] * shared
        elif LESS != 0:
            total += (LESS * scale)[:, None] * shared
    elif not SPEC.symmetric:
        total += (offset - SPEC.numbers.zero * SPEC.numbers.unit * scale)[:, None] * shared
    return total
