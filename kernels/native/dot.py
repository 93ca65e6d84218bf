"""Products of bytes, as processors have them, for code that numba compiles.

numba knows no vectors and none of these instructions, so the loop's innermost part is written for
LLVM: 16 rows of a span of columns. VNNI multiplies four bytes by four and adds them to a sum in one
instruction; AVX2 takes three, and those of 8 bits in halves, since its pairs would not fit.
"""

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types

from bitplan.kernels.native.processor import processor
from bitplan.kernels.native.quads import QUADS
from bitplan.kernels.native.vectors import (
    FLOAT,
    FLOATS,
    I8,
    I16,
    I32,
    I64,
    INTEGERS,
    ROWS,
    codes_of,
    constant,
    fma,
    load,
    splat,
    with_constants,
    words_of,
)

BASE_BITS = 7
"""Of the base of the digits that an input is written in: each is a signed byte."""


@cache
def instructions() -> str | None:
    """Of the processor that numba compiles for: `vnni` or `avx2`; None where there is neither."""
    _, has = processor()
    if "+avx512vnni" in has:
        return "vnni"
    return "avx2" if {"+avx2", "+fma"} <= has else None


@with_constants
def add_span(
    context: Any,
    words: Any,
    stride: Any,
    scale: Any,
    inputs: Any,
    input_stride: Any,
    starts: Any,
    start_stride: Any,
    steps: Any,
    step_stride: Any,
    total: Any,
    total_stride: Any,
    bits: Any,
    digits: Any,
    vectors: Any,
) -> Any:
    """Add a span's products with some vectors to the totals of 16 rows.

    Args:
        words: address of the span's words, see `quads`.
        stride: bytes from one of a row's words to the next.
        scale: address of the rows' scales, float32.
        inputs: address of the first vector's inputs, their first digits before their second.
        input_stride: bytes from one vector's to the next one's, here and of what follows.
        starts: address of what each digit's sum begins with, int32.
        start_stride: as before.
        steps: address of what a unit of the last digit is, float32.
        step_stride: as before.
        total: address of the rows' sums, float32.
        total_stride: as before.
        bits: of a code, a constant.
        digits: of an input, a constant.
        vectors: how many, a constant; codes are brought to their bytes once for all.
    """
    del context
    constants = (bits, digits, vectors)
    generate = _Generator(*(constant.literal_value for constant in constants))
    return types.void(*[types.int64] * 11, *constants), generate


class _Generator:
    """Writes `add_span` for one width."""

    def __init__(self, bits: int, digits: int, vectors: int) -> None:
        self.bits, self.digits, self.vectors = bits, digits, vectors

    def __call__(self, context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words, stride, scale = values[:3]
        inputs, starts, steps, totals = (
            [builder.add(first, builder.mul(step, I64(at))) for at in range(self.vectors)]
            for first, step in zip(values[3:11:2], values[4:11:2], strict=True)
        )
        loaded = words_of(builder, words, stride, self.bits)
        sums = [self._starts(builder, address) for address in starts]
        for quad in range(QUADS):
            codes = codes_of(builder, loaded, quad, self.bits)
            for of_vector, address in zip(sums, inputs, strict=True):
                for digit in range(self.digits):
                    place = builder.add(address, I64(4 * (digit * QUADS + quad)))
                    four = splat(builder, load(builder, place, I32))
                    of_vector[digit] = self._dot(builder, of_vector[digit], codes, four)
        scales = load(builder, scale, FLOATS)
        for of_vector, step, total in zip(sums, steps, totals, strict=True):
            factor = builder.fmul(scales, splat(builder, load(builder, step, FLOAT)))
            before = load(builder, total, FLOATS)
            result = fma(builder, _together(builder, of_vector), factor, before)
            builder.store(result, builder.inttoptr(total, FLOATS.as_pointer())).align = 4
        return context.get_dummy_value()

    def _starts(self, builder: Any, address: Any) -> list[Any]:
        places = [builder.add(address, I64(4 * digit)) for digit in range(self.digits)]
        return [splat(builder, load(builder, place, I32)) for place in places]

    def _dot(self, builder: Any, total: Any, codes: Any, four: Any) -> Any:
        if instructions() == "vnni":
            kind = ir.FunctionType(INTEGERS, [INTEGERS] * 3)
            function = builder.module.declare_intrinsic("llvm.x86.avx512.vpdpbusd.512", (), kind)
            return builder.call(function, [total, codes, four])
        if self.bits < 8:
            return builder.add(total, _pairs(builder, codes, four))
        # Two products of 255 and 127 are more than 16 bits hold.
        low = builder.and_(codes, constant(0x0F0F0F0F))
        high = builder.and_(builder.lshr(codes, constant(4)), constant(0x0F0F0F0F))
        upper = builder.shl(_pairs(builder, high, four), constant(4))
        return builder.add(builder.add(total, _pairs(builder, low, four)), upper)


def _together(builder: Any, sums: list[Any]) -> Any:
    """The sums of digits as one number."""
    whole = builder.sitofp(sums[0], FLOATS)
    base = ir.Constant(FLOATS, [float(1 << BASE_BITS)] * ROWS)
    for other in sums[1:]:
        whole = fma(builder, whole, base, builder.sitofp(other, FLOATS))
    return whole


def _pairs(builder: Any, codes: Any, four: Any) -> Any:
    """Sums of four products each, by AVX2: 8 rows at a time."""
    half = ir.VectorType(I32, ROWS // 2)
    bytes_, words = ir.VectorType(I8, 32), ir.VectorType(I16, 16)
    multiply = builder.module.declare_intrinsic(
        "llvm.x86.avx2.pmadd.ub.sw", (), ir.FunctionType(words, [bytes_, bytes_])
    )
    add = builder.module.declare_intrinsic(
        "llvm.x86.avx2.pmadd.wd", (), ir.FunctionType(half, [words, words])
    )
    halves = []
    for first in (0, ROWS // 2):
        mask = ir.Constant(half, list(range(first, first + ROWS // 2)))
        a, b = (
            builder.bitcast(builder.shuffle_vector(one, one, mask), bytes_) for one in (codes, four)
        )
        pairs = builder.call(multiply, [a, b])
        halves.append(builder.call(add, [pairs, ir.Constant(words, [1] * 16)]))
    return builder.shuffle_vector(*halves, ir.Constant(INTEGERS, list(range(ROWS))))
