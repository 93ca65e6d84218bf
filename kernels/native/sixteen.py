"""Sixteen columns of a row: the numbers of their codes, for code that numba compiles.

A code is a byte of its own. Those of a table of sixteen numbers or fewer are looked up in
registers, where the processor can; of a larger one, in memory.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

from bitplan.kernels.native.vectors import (
    FLOATS,
    I1,
    I8,
    I16,
    I32,
    I64,
    INTEGERS,
    ROWS,
    fma,
    load,
    splat,
    store,
    with_constants,
)

COLUMNS = ROWS

SUMS = 4
"""Of products that `dot` adds to at a time."""

ENTRIES = 16
"""Of a table that registers hold; smaller ones are filled up."""

_BYTES, _BITS = ir.VectorType(I8, COLUMNS), ir.VectorType(I1, COLUMNS)
_HALF = ir.VectorType(ir.FloatType(), COLUMNS // 2)


@cache
def _registers() -> str | None:
    """What looks up in registers: `avx512` sixteen entries, `avx2` eight."""
    context: Any = cpu_target.target_context
    _, _, features = context.codegen().magic_tuple()
    has = features.split(",")
    return "avx512" if "+avx512f" in has else "avx2" if "+avx2" in has else None


@with_constants
def integers(
    context: Any, codes: Any, mask: Any, scale: Any, offset: Any, half: Any, output: Any
) -> Any:
    """Write (code - half) * scale + offset, or 0 where the bits at an address are not set.

    Args:
        codes: address of 16 bytes.
        mask: address of 16 bits.
        scale: float32.
        offset: float32.
        half: int32.
        output: address of 16 numbers in float32.
    """
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        codes, mask, scale, offset, half, output = values
        whole = builder.sub(_codes(builder, codes), splat(builder, half))
        number = builder.fmul(builder.sitofp(whole, FLOATS), splat(builder, scale))
        _write(builder, builder.fadd(number, splat(builder, offset)), mask, output)
        return context.get_dummy_value()

    numbers = (types.float32, types.float32, types.int32)
    return types.void(types.int64, types.int64, *numbers, types.int64), generate


@with_constants
def looked_up(
    context: Any, codes: Any, mask: Any, scale: Any, table: Any, output: Any, few: Any
) -> Any:
    """Write table[code] * scale; see `integers`.

    `table` is the address of float32 numbers; `few`, a constant, says that they are `ENTRIES`.
    """
    del context
    find = _in_registers if few.literal_value else _in_memory

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        codes, mask, scale, table, output = values[:5]
        number = find(builder, _codes(builder, codes), table)
        _write(builder, builder.fmul(number, splat(builder, scale)), mask, output)
        return context.get_dummy_value()

    address = types.int64
    return types.void(address, address, types.float32, address, address, few), generate


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
    find = _in_registers if few.literal_value else _in_memory

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
        some = _where(builder, load(builder, at, FLOATS), kept)
        total = fma(builder, number(_codes(builder, code)), some, builder.load(products))
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
        whole = builder.fadd(builder.fadd(*found[:2]), builder.fadd(*found[2:]))
        for width in (8, 4, 2, 1):
            low, high = (_some(builder, whole, at, width) for at in (0, width))
            whole = builder.fadd(low, high)
        return builder.extract_element(whole, I32(0))

    return types.float32(types.int64, types.int64, types.int64), generate


def _codes(builder: Any, address: Any) -> Any:
    return builder.zext(load(builder, address, _BYTES, align=1), INTEGERS)


def _write(builder: Any, numbers: Any, mask: Any, output: Any) -> None:
    store(builder, _where(builder, numbers, mask), output)


def _where(builder: Any, numbers: Any, mask: Any) -> Any:
    """Numbers where a weight is kept, zero elsewhere."""
    bits = builder.bitcast(load(builder, mask, I16, align=1), _BITS)
    return builder.select(bits, numbers, ir.Constant(FLOATS, [0.0] * COLUMNS))


def _in_registers(builder: Any, codes: Any, table: Any) -> Any:
    kind = _registers()
    if kind is None:
        return _in_memory(builder, codes, table)
    values = load(builder, table, FLOATS)
    if kind == "avx512":
        name, own = "llvm.x86.avx512.permvar.sf.512", ir.FunctionType(FLOATS, [FLOATS, INTEGERS])
        return builder.call(builder.module.declare_intrinsic(name, (), own), [values, codes])
    halves = []
    for first in (0, COLUMNS // 2):
        some = _some(builder, codes, first)
        low, high = (_eight(builder, _some(builder, values, at), some) for at in (0, 8))
        is_high = builder.icmp_unsigned(">=", some, ir.Constant(some.type, [8] * 8))
        halves.append(builder.select(is_high, high, low))
    return builder.shuffle_vector(*halves, ir.Constant(INTEGERS, list(range(COLUMNS))))


def _eight(builder: Any, values: Any, index: Any) -> Any:
    """Eight of eight numbers, by the low bits of their indices."""
    kind = ir.FunctionType(_HALF, [_HALF, index.type])
    function = builder.module.declare_intrinsic("llvm.x86.avx2.permps", (), kind)
    return builder.call(function, [values, index])


def _some(builder: Any, vector: Any, first: int, count: int = COLUMNS // 2) -> Any:
    mask = ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
    return builder.shuffle_vector(vector, vector, mask)


def _in_memory(builder: Any, codes: Any, table: Any) -> Any:
    found = ir.Constant(FLOATS, ir.Undefined)
    first = builder.inttoptr(table, ir.FloatType().as_pointer())
    for place in range(COLUMNS):
        code = builder.extract_element(codes, I32(place))
        number = builder.load(builder.gep(first, [code]))
        found = builder.insert_element(found, number, I32(place))
    return found
