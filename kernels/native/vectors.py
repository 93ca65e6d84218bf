"""Vectors of 16 rows, written for LLVM: numba knows none."""

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from bitplan.kernels.native.memory import ask

ROWS = 16
"""Rows that go together."""

AHEAD_BYTES = 4096
"""How far before they are read words are asked for."""

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOAT = ir.FloatType()
INTEGERS, FLOATS = ir.VectorType(I32, ROWS), ir.VectorType(FLOAT, ROWS)
HALVES = ir.VectorType(I16, ROWS)

with_constants: Any = intrinsic(prefer_literal=True)
"""An intrinsic that is told which arguments are constants."""


def words_of(builder: Any, words: Any, stride: Any, bits: int) -> list[Any]:
    """The words of a span, of 16 rows; those that come later are asked for."""
    addresses = [builder.add(words, builder.mul(stride, I64(word))) for word in range(bits)]
    for address in addresses:
        ask(builder, builder.add(address, I64(AHEAD_BYTES)))
    return [load(builder, address, INTEGERS) for address in addresses]


def codes_of(builder: Any, words: list[Any], quad: int, bits: int) -> Any:
    """Four codes of each row in the bytes of a number."""
    found, low = None, 0
    for width in (8, 4, 2, 1):
        if not bits & width:
            continue
        word = words[low + quad * width // 8]
        shift = quad * width % 8 - low
        if shift > 0:
            word = builder.lshr(word, constant(shift))
        elif shift < 0:
            word = builder.shl(word, constant(-shift))
        if width < 8:
            word = builder.and_(word, constant((((1 << width) - 1) << low) * 0x01010101))
        found = word if found is None else builder.or_(found, word)
        low += width
    return found


def load(builder: Any, address: Any, kind: Any, *, align: int = 4) -> Any:
    """What is at an address, in fours of bytes or as `align` says."""
    loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
    loaded.align = align
    return loaded


def store(builder: Any, value: Any, address: Any, *, align: int = 4) -> None:
    """Write what `load` loads."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


def splat(builder: Any, value: Any) -> Any:
    """A vector of one value."""
    kind = ir.VectorType(value.type, ROWS)
    empty = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(empty, value, I32(0))
    return builder.shuffle_vector(one, empty, ir.Constant(INTEGERS, [0] * ROWS))


def constant(value: int) -> Any:
    """A vector of one integer of 32 bits."""
    signed = value - (1 << 32) if value >> 31 else value
    return ir.Constant(INTEGERS, [signed] * ROWS)


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    return builder.call(builder.module.declare_intrinsic("llvm.fma.v16f32", (), kind), [a, b, c])
