"""Codes of a row to bytes, and kept ones to their columns, for code that numba compiles.

A row whose kept codes lie one after another is spread by the bits of its mask. AVX-512 has an
instruction for 64 bytes, VBMI2's; BMI2 deposits a word's bytes where a mask has its own, eight at a
time; without either, a byte at a time is written, and counted on where it was kept.
"""

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types

from bitplan.formats.bits import CELL
from bitplan.kernels.native.processor import processor
from bitplan.kernels.native.vectors import I1, I8, I32, I64, load, store, with_constants

CHUNK = 64
"""Columns that are spread at once: the bits of a word."""

ONES = 0x0101010101010101

_SLOW_DEPOSITS = ("znver1", "znver2")
"""Processors that have BMI2's deposit, but take a hundred cycles for it."""


@cache
def instructions() -> str:
    """Of the processor that numba compiles for: `vbmi2`, `bmi2`, or `plain` where it has neither.

    Whoever has the first has the second, too.
    """
    name, has = processor()
    if "+bmi2" not in has or name in _SLOW_DEPOSITS:
        return "plain"
    return "vbmi2" if {"+avx512vbmi2", "+avx512vbmi", "+avx512bw"} <= has else "bmi2"


@with_constants
def unpack_chunk(context: Any, packed: Any, bits: Any, output: Any, how: Any) -> Any:
    """The codes of eight cells, of so many bits, to as many bytes; reads 64 bytes, writes 64."""
    del context
    by = how.literal_value

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        packed, bits, output = values[:3]
        last = builder.sub(builder.shl(I64(1), bits), I64(1))
        if by == "vbmi2":
            _unpack_all(builder, packed, bits, last, output)
            return context.get_dummy_value()
        for cell in range(CELL):
            word = load(builder, builder.add(packed, builder.mul(bits, I64(cell))), I64, align=1)
            to = builder.add(output, I64(cell * CELL))
            unpack = _unpack_word if by == "bmi2" else _unpack_each
            unpack(builder, word, bits, last, to)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, how), generate


def _unpack_all(builder: Any, packed: Any, bits: Any, last: Any, output: Any) -> None:
    """By two of VBMI's instructions: bytes of each cell to a word, then bits to each byte."""
    bytes_ = ir.VectorType(I8, CHUNK)
    kind = ir.FunctionType(bytes_, [bytes_, bytes_])
    move, shift = (
        builder.module.declare_intrinsic(f"llvm.x86.avx512.{name}.512", (), kind)
        for name in ("permvar.qi", "pmultishift.qb")
    )
    width = _every(builder, builder.trunc(bits, I8))
    cell, place = (
        ir.Constant(bytes_, numbers)
        for numbers in ([at // CELL for at in range(CHUNK)], [at % CELL for at in range(CHUNK)])
    )
    where = builder.add(builder.mul(cell, width), place)
    words = builder.call(move, [load(builder, packed, bytes_, align=1), where])
    codes = builder.call(shift, [builder.mul(place, width), words])
    mask = _every(builder, builder.trunc(last, I8))
    store(builder, builder.and_(codes, mask), output, align=1)


def _every(builder: Any, byte: Any) -> Any:
    kind = ir.VectorType(I8, CHUNK)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), byte, I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, CHUNK), [0] * CHUNK))


def _unpack_word(builder: Any, word: Any, bits: Any, last: Any, output: Any) -> None:
    del bits
    store(builder, _deposit(builder, word, builder.mul(last, I64(ONES))), output, align=1)


def _unpack_each(builder: Any, word: Any, bits: Any, last: Any, output: Any) -> None:
    for place in range(CELL):
        code = builder.and_(builder.lshr(word, builder.mul(bits, I64(place))), last)
        store(builder, builder.trunc(code, I8), builder.add(output, I64(place)), align=1)


@with_constants
def spread_chunk(context: Any, codes: Any, mask: Any, output: Any, how: Any) -> Any:
    """Bytes to where the 64 bits at an address are set, zeros elsewhere; how many were set.

    Reads 64 bytes of codes, however few are kept, and writes 64.
    """
    del context
    write = {"vbmi2": _spread_all, "bmi2": _spread_eights, "plain": _spread_each}[how.literal_value]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        del context, signature
        codes, mask, output = values[:3]
        word = load(builder, mask, I64, align=1)
        write(builder, codes, word, output)
        return _count(builder, word)

    return types.int64(types.int64, types.int64, types.int64, how), generate


def _spread_all(builder: Any, codes: Any, word: Any, output: Any) -> None:
    bytes_, bits = ir.VectorType(I8, CHUNK), ir.VectorType(I1, CHUNK)
    kind = ir.FunctionType(bytes_, [bytes_, bytes_, bits])
    expand = builder.module.declare_intrinsic("llvm.x86.avx512.mask.expand.v64i8", (), kind)
    zeros = ir.Constant(bytes_, [0] * CHUNK)
    found = builder.call(
        expand, [load(builder, codes, bytes_, align=1), zeros, builder.bitcast(word, bits)]
    )
    store(builder, found, output, align=1)


def _spread_eights(builder: Any, codes: Any, word: Any, output: Any) -> None:
    for place in range(0, CHUNK, 8):
        some = builder.and_(builder.lshr(word, I64(place)), I64(0xFF))
        where = builder.mul(_deposit(builder, some, I64(ONES)), I64(0xFF))
        found = _deposit(builder, load(builder, codes, I64, align=1), where)
        store(builder, found, builder.add(output, I64(place)), align=1)
        codes = builder.add(codes, _count(builder, some))


def _spread_each(builder: Any, codes: Any, word: Any, output: Any) -> None:
    for place in range(CHUNK):
        is_kept = builder.and_(builder.lshr(word, I64(place)), I64(1))
        code = builder.mul(load(builder, codes, I8, align=1), builder.trunc(is_kept, I8))
        store(builder, code, builder.add(output, I64(place)), align=1)
        codes = builder.add(codes, is_kept)


def _deposit(builder: Any, word: Any, mask: Any) -> Any:
    """The low bits of a word, where a mask has its own."""
    kind = ir.FunctionType(I64, [I64, I64])
    function = builder.module.declare_intrinsic("llvm.x86.bmi.pdep.64", (), kind)
    return builder.call(function, [word, mask])


def _count(builder: Any, word: Any) -> Any:
    kind = ir.FunctionType(I64, [I64])
    return builder.call(builder.module.declare_intrinsic("llvm.ctpop.i64", (), kind), [word])
