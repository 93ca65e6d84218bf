"""Sixteen columns of a row: the numbers of their codes, for code that numba compiles.

A code is a byte of its own. Those of a table of sixteen numbers or fewer are looked up in
registers, where the processor can; of a larger one, in memory.
"""

from typing import Any

from llvmlite import ir
from numba import types

from bitplan.kernels.native.processor import processor
from bitplan.kernels.native.vectors import (
    FLOATS,
    I1,
    I8,
    I16,
    I32,
    INTEGERS,
    ROWS,
    load,
    splat,
    store,
    with_constants,
)

COLUMNS = ROWS

ENTRIES = 16
"""Of a table that registers hold; smaller ones are filled up."""

_BYTES, _BITS = ir.VectorType(I8, COLUMNS), ir.VectorType(I1, COLUMNS)
_HALF = ir.VectorType(ir.FloatType(), COLUMNS // 2)


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
        whole = builder.sub(codes_at(builder, codes), splat(builder, half))
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
    find = in_registers if few.literal_value else in_memory

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        codes, mask, scale, table, output = values[:5]
        number = find(builder, codes_at(builder, codes), table)
        _write(builder, builder.fmul(number, splat(builder, scale)), mask, output)
        return context.get_dummy_value()

    address = types.int64
    return types.void(address, address, types.float32, address, address, few), generate


def codes_at(builder: Any, address: Any) -> Any:
    """Sixteen codes, as integers of 32 bits."""
    return builder.zext(load(builder, address, _BYTES, align=1), INTEGERS)


def _write(builder: Any, numbers: Any, mask: Any, output: Any) -> None:
    store(builder, where(builder, numbers, mask), output)


def where(builder: Any, numbers: Any, mask: Any) -> Any:
    """Numbers where a weight is kept, zero elsewhere."""
    bits = builder.bitcast(load(builder, mask, I16, align=1), _BITS)
    return builder.select(bits, numbers, ir.Constant(FLOATS, [0.0] * COLUMNS))


def in_registers(builder: Any, codes: Any, table: Any) -> Any:
    """The numbers of codes, of a table of `ENTRIES` at an address."""
    _, has = processor()
    if "+avx2" not in has:
        return in_memory(builder, codes, table)
    values = load(builder, table, FLOATS)
    if "+avx512f" in has:
        name, own = "llvm.x86.avx512.permvar.sf.512", ir.FunctionType(FLOATS, [FLOATS, INTEGERS])
        return builder.call(builder.module.declare_intrinsic(name, (), own), [values, codes])
    halves = []
    for first in (0, COLUMNS // 2):
        some = some_of(builder, codes, first)
        low, high = (_eight(builder, some_of(builder, values, at), some) for at in (0, 8))
        is_high = builder.icmp_unsigned(">=", some, ir.Constant(some.type, [8] * 8))
        halves.append(builder.select(is_high, high, low))
    return builder.shuffle_vector(*halves, ir.Constant(INTEGERS, list(range(COLUMNS))))


def _eight(builder: Any, values: Any, index: Any) -> Any:
    """Eight of eight numbers, by the low bits of their indices."""
    kind = ir.FunctionType(_HALF, [_HALF, index.type])
    function = builder.module.declare_intrinsic("llvm.x86.avx2.permps", (), kind)
    return builder.call(function, [values, index])


def some_of(builder: Any, vector: Any, first: int, count: int = COLUMNS // 2) -> Any:
    """So many of a vector's numbers that lie together."""
    mask = ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
    return builder.shuffle_vector(vector, vector, mask)


def in_memory(builder: Any, codes: Any, table: Any) -> Any:
    """The numbers of codes, of a table of any size at an address."""
    found = ir.Constant(FLOATS, ir.Undefined)
    first = builder.inttoptr(table, ir.FloatType().as_pointer())
    for place in range(COLUMNS):
        code = builder.extract_element(codes, I32(place))
        number = builder.load(builder.gep(first, [code]))
        found = builder.insert_element(found, number, I32(place))
    return found
