"""Arrays at addresses, and a counter that threads share: what compiled loops need beside Python."""

import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from bitplan.kernels.native.compiled import part


def _untyped(function: Any) -> Any:
    """An intrinsic: its callers do not give the context that its function takes."""
    return intrinsic(function)


@_untyped
def _pointer(context: Any, address: Any) -> Any:
    """A pointer of an address."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), generate


@_untyped
def fetch_add(context: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 at an address and give what was there, whatever other threads do."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, values[1], "monotonic")

    return types.int64(types.int64, types.int64), generate


@_untyped
def arrive(context: Any, address: Any) -> Any:
    """Add one to the int64 at an address and give what was there.

    What this thread wrote before can be read by whoever comes later.
    """
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, ir.IntType(64)(1), "acq_rel")

    return types.int64(types.int64), generate


@_untyped
def read_shared(context: Any, address: Any) -> Any:
    """The int64 at an address, which other threads write, and what they wrote before it."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), generate


@_untyped
def write_shared(context: Any, address: Any, value: Any) -> Any:
    """Write an int64 that other threads read."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        builder.store_atomic(values[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_untyped
def pause(context: Any) -> Any:
    """Say to the processor that this thread waits, where there is a word for it."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
        return context.get_dummy_value()

    return types.void(), generate


@_untyped
def prefetch(context: Any, address: Any) -> Any:
    """Ask for the memory at an address; where there is none, nothing happens."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        ask(builder, values[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def ask(builder: Any, address: Any) -> None:
    """Write `prefetch` for LLVM.

    As what is read once: weights that stayed in the caches would drive out all that stands between
    two products, Python's objects not least.
    """
    pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
    function = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
    read, keep, data = number(0), number(0), number(1)
    builder.call(function, [builder.inttoptr(address, pointer), read, keep, data])


@_untyped
def call_at(context: Any, address: Any, argument: Any) -> Any:
    """Call the compiled function at an address: it takes one int64 and gives nothing."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
        function = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(function, [values[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_untyped
def ask_at(context: Any, address: Any) -> Any:
    """Call the function at an address, which takes nothing and gives an int."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        found = builder.call(builder.inttoptr(values[0], kind.as_pointer()), [])
        return builder.sext(found, ir.IntType(64))

    return types.int64(types.int64), generate


@_untyped
def copy(context: Any, source: Any, target: Any, count: Any) -> Any:
    """Copy bytes from one address to another."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        source, target = (builder.inttoptr(address, pointer) for address in values[:2])
        kind = ir.FunctionType(ir.VoidType(), [pointer, pointer, ir.IntType(64), ir.IntType(1)])
        function = builder.module.declare_intrinsic("llvm.memcpy.p0.p0.i64", (), kind)
        builder.call(function, [target, source, values[2], ir.IntType(1)(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@_untyped
def word_at(context: Any, address: Any) -> Any:
    """The eight bytes at an address, wherever it is."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = builder.load(builder.inttoptr(values[0], ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return types.uint64(types.int64), generate


@_untyped
def bfloat16_at(context: Any, address: Any) -> Any:
    """The bfloat16 at an address, as float32."""
    del context

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        half = builder.load(builder.inttoptr(values[0], ir.IntType(16).as_pointer()))
        word = builder.shl(builder.zext(half, ir.IntType(32)), ir.IntType(32)(16))
        return builder.bitcast(word, ir.FloatType())

    return types.float32(types.int64), generate


@part
def address_of(array):
    """Of an array's first number. It is signed: with an unsigned one numba counts in floats."""
    return np.int64(array.ctypes.data)


@part
def int64_at(address, count):
    """int64 [count] at an address."""
    return carray(_pointer(address), count, np.int64)


@part
def int32_at(address, count):
    """int32 [count] at an address."""
    return carray(_pointer(address), count, np.int32)


@part
def int8_at(address, count):
    """int8 [count] at an address."""
    return carray(_pointer(address), count, np.int8)


@part
def uint16_at(address, count):
    """uint16 [count] at an address."""
    return carray(_pointer(address), count, np.uint16)


@part
def uint8_at(address, count):
    """uint8 [count] at an address."""
    return carray(_pointer(address), count, np.uint8)


@part
def float32_at(address, count):
    """float32 [count] at an address."""
    return carray(_pointer(address), count, np.float32)
