"""Packed codes to numbers, 16 rows at a time, for code that numba compiles."""

from typing import Any

from numba import types

from bitplan.kernels.native.quads import QUADS
from bitplan.kernels.native.vectors import (
    FLOATS,
    HALVES,
    I64,
    INTEGERS,
    codes_of,
    constant,
    load,
    with_constants,
    words_of,
)


@with_constants
def decode_span(
    context: Any,
    words: Any,
    stride: Any,
    scale: Any,
    offset: Any,
    output: Any,
    output_stride: Any,
    bits: Any,
    half: Any,
) -> Any:
    """Decode a span of 16 rows, by column.

    Args:
        words: address of the span's words, see `quads`.
        stride: bytes from one of a row's words to the next.
        scale: address of the rows' scales, float32.
        offset: of their offsets.
        output: address of what the first column becomes.
        output_stride: bytes from one column to the next.
        bits: of a code, a constant.
        half: whether the output is bfloat16, a constant; else float32.
    """
    del context
    generate = _Decoder(bits.literal_value, is_half=half.literal_value != 0)
    return types.void(*[types.int64] * 6, bits, half), generate


class _Decoder:
    """Writes `decode_span` for one width."""

    def __init__(self, bits: int, *, is_half: bool) -> None:
        self.bits, self.is_half = bits, is_half

    def __call__(self, context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words, stride, scale, offset, output, output_stride = values[:6]
        loaded = words_of(builder, words, stride, self.bits)
        scales, offsets = load(builder, scale, FLOATS), load(builder, offset, FLOATS)
        half = constant(1 << (self.bits - 1))
        for quad in range(QUADS):
            four = codes_of(builder, loaded, quad, self.bits)
            for place in range(4):
                code = builder.and_(builder.lshr(four, constant(8 * place)), constant(0xFF))
                number = builder.sitofp(builder.sub(code, half), FLOATS)
                number = builder.fadd(builder.fmul(number, scales), offsets)
                column = builder.mul(output_stride, I64(4 * quad + place))
                self._store(builder, number, builder.add(output, column))
        return context.get_dummy_value()

    def _store(self, builder: Any, number: Any, address: Any) -> None:
        if self.is_half:
            # To the nearest, and the even one of two.
            bits = builder.bitcast(number, INTEGERS)
            last = builder.and_(builder.lshr(bits, constant(16)), constant(1))
            rounded = builder.add(bits, builder.add(last, constant(0x7FFF)))
            number = builder.trunc(builder.lshr(rounded, constant(16)), HALVES)
        pointer = builder.inttoptr(address, number.type.as_pointer())
        builder.store(number, pointer).align = 2 if self.is_half else 4
