"""Sums over the tokens of a cache, sixteen columns at a time, for code that numba compiles."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bitplan.kernels.native.sixteen_sums import whole
from bitplan.kernels.native.vectors import (
    FLOAT,
    FLOATS,
    HALVES,
    I64,
    INTEGERS,
    ROWS,
    constant,
    fma,
    load,
    splat,
    store,
    with_constants,
)


@with_constants
def scores(
    context: Any,
    query: Any,
    keys: Any,
    step: Any,
    count: Any,
    width: Any,
    is_half: Any,
    output: Any,
) -> Any:
    """Write the product of a query with each of so many keys.

    Args:
        query: address of float32 [width].
        keys: address of the first key's numbers.
        step: bytes from one key to the next.
        count: keys.
        width: a multiple of 16.
        is_half: whether keys are bfloat16, a constant.
        output: address of float32 [count].
    """
    del context
    half = is_half.literal_value

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        query, keys, step, count, width, _, output = values
        total = cgutils.alloca_once(builder, FLOATS)
        with cgutils.for_range(builder, count) as token:
            key = builder.add(keys, builder.mul(token.index, step))
            builder.store(ir.Constant(FLOATS, [0.0] * ROWS), total)
            with cgutils.for_range(builder, builder.udiv(width, I64(ROWS))) as some:
                one = load(builder, _place(builder, query, some.index, 4), FLOATS)
                other = _numbers(builder, key, some.index, half)
                builder.store(fma(builder, one, other, builder.load(total)), total)
            place = builder.add(output, builder.mul(token.index, I64(4)))
            store(builder, whole(builder, builder.load(total)), place)
        return context.get_dummy_value()

    address = types.int64
    return types.void(*[address] * 5, is_half, address), generate


@with_constants
def mixed(
    context: Any,
    weights: Any,
    rows: Any,
    step: Any,
    count: Any,
    width: Any,
    is_half: Any,
    output: Any,
) -> Any:
    """Write the sum of so many rows, each times its weight.

    Args:
        weights: address of float32 [count].
        rows: address of the first row's numbers.
        step: bytes from one row to the next.
        count: rows.
        width: a multiple of 16.
        is_half: whether rows are bfloat16, a constant.
        output: address of float32 [width].
    """
    del context
    half = is_half.literal_value

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        weights, rows, step, count, width, _, output = values
        total = cgutils.alloca_once(builder, FLOATS)
        with cgutils.for_range(builder, builder.udiv(width, I64(ROWS))) as some:
            builder.store(ir.Constant(FLOATS, [0.0] * ROWS), total)
            with cgutils.for_range(builder, count) as token:
                row = builder.add(rows, builder.mul(token.index, step))
                place = builder.add(weights, builder.mul(token.index, I64(4)))
                weight = splat(builder, load(builder, place, FLOAT))
                numbers = _numbers(builder, row, some.index, half)
                builder.store(fma(builder, numbers, weight, builder.load(total)), total)
            store(builder, builder.load(total), _place(builder, output, some.index, 4))
        return context.get_dummy_value()

    address = types.int64
    return types.void(*[address] * 5, is_half, address), generate


def _place(builder: Any, first: Any, sixteen: Any, size: int) -> Any:
    """The address of a sixteen of numbers of so many bytes."""
    return builder.add(first, builder.mul(sixteen, I64(size * ROWS)))


def _numbers(builder: Any, first: Any, sixteen: Any, half: bool) -> Any:
    """A sixteen of numbers in float32."""
    if not half:
        return load(builder, _place(builder, first, sixteen, 4), FLOATS)
    halves = load(builder, _place(builder, first, sixteen, 2), HALVES, align=2)
    words = builder.shl(builder.zext(halves, INTEGERS), constant(16))
    return builder.bitcast(words, FLOATS)
