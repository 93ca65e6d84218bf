"""A product with several weights that have their inputs in common: queries, keys and values.

Blocks of rows of one weight follow those of another, so all weights are one launch, and as many
programs share the columns as if they were one. Weights need not have a scheme in common.
"""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

from typing import NamedTuple

import triton
import triton.language as tl

from bitplan.kernels.gpu.matmul import multiply, reduce_block


class Weight(NamedTuple):
    """What `multiply` reads and writes of a weight."""

    codes: tl.tensor
    grid: tl.tensor
    matrix_scale: tl.tensor | None
    scale_step: tl.tensor | None
    offset_step: tl.tensor | None
    choices: tl.tensor | None
    outputs: tl.tensor
    rows: tl.tensor


@triton.jit
def matmul_of_several(inputs, kinds, count, stride, SPECS: tl.constexpr):
    """As `matmul`, with one weight after another.

    `kinds` has for each constant of `SPECS` the weights that it is of, and of each weight codes,
    grid, what is beside them in the order of `matmul`, outputs and rows. Weights of one kind are
    one piece of code, which takes what it reads from the weight that its block of rows is of.
    Programs are [blocks of rows of all weights, splits, blocks of tokens].
    """
    before = 0
    for kind in tl.static_range(len(SPECS)):
        before = multiply_kind(inputs, kinds[kind], before, count, stride, SPECS[kind])


@triton.jit
def multiply_kind(inputs, weights, before, count, stride, SPEC: tl.constexpr):
    """What a program has of the weights of a kind; returns the end of their blocks of rows."""
    block, splits = tl.program_id(0), tl.num_programs(1)
    own, first = weights[0], before
    before += blocks_of_rows(own, SPEC)
    for number in tl.static_range(1, len(weights)):
        own = either(block >= before, weights[number], own)
        first = tl.where(block >= before, before, first)
        before += blocks_of_rows(weights[number], SPEC)
    if (block >= first) & (block < before):
        multiply(
            inputs,
            own[0],
            own[1],
            own[2],
            own[3],
            own[4],
            own[5],
            None,
            None,
            None,
            None,
            own[6],
            own[7],
            block - first,
            tl.program_id(1),
            splits,
            tl.program_id(2) * SPEC.tokens,
            count,
            count,
            stride,
            tl.cdiv(SPEC.columns // SPEC.panel, splits),
            SPEC,
        )
    return before


@triton.jit
def blocks_of_rows(weight, SPEC: tl.constexpr):
    """How many blocks of rows a weight has."""
    return tl.cdiv(weight[7], SPEC.rows)


@triton.jit
def either(is_first, first, second):
    """Of two weights of a kind the one or the other."""
    return Weight(
        either_of(is_first, first[0], second[0]),
        either_of(is_first, first[1], second[1]),
        either_of(is_first, first[2], second[2]),
        either_of(is_first, first[3], second[3]),
        either_of(is_first, first[4], second[4]),
        either_of(is_first, first[5], second[5]),
        either_of(is_first, first[6], second[6]),
        either_of(is_first, first[7], second[7]),
    )


@triton.jit
def either_of(is_first, first, second):
    """Of what one and the other have at a place; None as it is."""
    if first is None:
        return None
    else:
        return tl.where(is_first, first, second)


@triton.jit
def reduce_several(sums, BLOCK: tl.constexpr):
    """As `reduce`, of one output after another: parts, output, size and copies of each."""
    block = tl.program_id(0)
    before = 0
    for number in tl.static_range(len(sums)):
        of_it = tl.cdiv(sums[number][2], BLOCK)
        if (block >= before) & (block < before + of_it):
            parts, outputs, size = sums[number][0], sums[number][1], sums[number][2]
            reduce_block(parts, outputs, size, sums[number][3], block - before, BLOCK)
        before += of_it
