"""Sums of products of sixteen columns and more, for code that numba compiles."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bitplan.kernels.native.sixteen import (
    COLUMNS,
    codes_at,
    in_memory,
    in_registers,
    some_of,
    where,
)
from bitplan.kernels.native.vectors import FLOATS, I32, I64, fma, load, splat, store, with_constants

SUMS = 4
"""Of products that `dot` adds to at a time."""


@with_constants
def add_integers(
    context: Any, codes: Any, mask: Any, x: Any, count: Any, grid: Any, half: Any, total: Any
) -> Any:
    """Add the products of a group's numbers, see `integers`, and inputs to sixteen sums.

    Args:
        codes: address of so many times 16 bytes.
        mask: address of as many bits.
        x: address of as many inputs in float32.
        count: sixteens that there are.
        grid: the scale and the offset.
        half: int32.
        total: address of 16 sums in float32.
    """
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        codes, mask, x, count, grid, half, total = values
        half = splat(builder, half)

        def number(codes: Any) -> Any:
            return builder.sitofp(builder.sub(codes, half), FLOATS)

        products, inputs = _sums(builder, codes, mask, x, count, number)
        before = load(builder, total, FLOATS)
        for at, of_group in enumerate((products, inputs)):
            before = fma(builder, of_group, splat(builder, builder.extract_value(grid, at)), before)
        store(builder, before, total)
        return context.get_dummy_value()

    return types.void(
        *[types.int64] * 4, types.UniTuple(types.float32, 2), types.int32, types.int64
    ), generate


@with_constants
def add_looked_up(
    context: Any,
    codes: Any,
    mask: Any,
    x: Any,
    count: Any,
    scale: Any,
    table: Any,
    total: Any,
    few: Any,
) -> Any:
    """The same for `looked_up`."""
    del context
    find = in_registers if few.literal_value else in_memory

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        codes, mask, x, count, scale, table, total = values[:7]
        products, _ = _sums(
            builder, codes, mask, x, count, lambda codes: find(builder, codes, table)
        )
        before = load(builder, total, FLOATS)
        store(builder, fma(builder, products, splat(builder, scale), before), total)
        return context.get_dummy_value()

    address = types.int64
    return types.void(*[address] * 4, types.float32, address, address, few), generate


def _sums(
    builder: Any, codes: Any, mask: Any, x: Any, count: Any, number: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """Sums of products of codes' numbers and inputs, and of inputs, where weights are kept."""
    zeros = ir.Constant(FLOATS, [0.0] * COLUMNS)
    products, inputs = (cgutils.alloca_once_value(builder, zeros) for _ in range(2))
    with cgutils.for_range(builder, count) as loop:
        code, kept, at = (
            builder.add(address, builder.mul(loop.index, I64(step)))
            for address, step in ((codes, COLUMNS), (mask, 2), (x, 4 * COLUMNS))
        )
        some = where(builder, load(builder, at, FLOATS), kept)
        total = fma(builder, number(codes_at(builder, code)), some, builder.load(products))
        builder.store(total, products)
        builder.store(builder.fadd(some, builder.load(inputs)), inputs)
    return builder.load(products), builder.load(inputs)


@with_constants
def dot(context: Any, first: Any, second: Any, count: Any) -> Any:
    """Sum of the products of float32 numbers at two addresses, so many: a multiple of 64."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        first, second, count = values
        # Several sums: a processor adds to as many at a time.
        zeros = ir.Constant(FLOATS, [0.0] * COLUMNS)
        sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(SUMS)]
        times = builder.udiv(count, I64(SUMS * COLUMNS))
        with cgutils.for_range(builder, times) as loop:
            for number, total in enumerate(sums):
                place = builder.add(builder.mul(loop.index, I64(SUMS)), I64(number))
                at = builder.mul(place, I64(4 * COLUMNS))
                a, b = (load(builder, builder.add(x, at), FLOATS) for x in (first, second))
                builder.store(fma(builder, a, b, builder.load(total)), total)
        found = [builder.load(total) for total in sums]
        return whole(builder, builder.fadd(builder.fadd(*found[:2]), builder.fadd(*found[2:])))

    return types.float32(types.int64, types.int64, types.int64), generate


def whole(builder: Any, sums: Any) -> Any:
    """The sum of sixteen numbers."""
    for width in (8, 4, 2, 1):
        low, high = (some_of(builder, sums, at, width) for at in (0, width))
        sums = builder.fadd(low, high)
    return builder.extract_element(sums, I32(0))
