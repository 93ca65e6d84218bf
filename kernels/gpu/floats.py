"""Small floating-point codes out of words: a sign, and then exponent and mantissa.

Put where a wider number has its lowest bits of exponent and its highest of mantissa, they are that
number times a power of two, subnormal ones too. Float16 keeps that power for the group's scale. In
bfloat16 it is so small that sums in float32 would lose bits: there numbers are multiplied by it,
two at a time. Codes that stand for no number, which encoding never takes, are numbers here.
"""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl

from bitplan.kernels.gpu.fields import INTERPRETED, field


@triton.jit
def floats(words, PAIR: tl.constexpr, SPEC: tl.constexpr):
    """Words of the two numbers of a pair's codes."""
    BITS: tl.constexpr = SPEC.bits
    RAISED: tl.constexpr = SPEC.numbers.raised
    rest = field(words, PAIR * SPEC.pitch, BITS - 1, SPEC.numbers.target)
    both = field(words, PAIR * SPEC.pitch + BITS - 1, 1, 15) | rest
    if RAISED == 0:
        return both
    elif SPEC.numbers.dtype == "fp16":
        factor: tl.constexpr = 2.0**RAISED
        lower = both.to(tl.uint16).to(tl.float16, bitcast=True) * factor
        upper = (both >> 16).to(tl.uint16).to(tl.float16, bitcast=True) * factor
        lower = lower.to(tl.uint16, bitcast=True).to(tl.uint32)
        return lower | (upper.to(tl.uint16, bitcast=True).to(tl.uint32) << 16)
    elif INTERPRETED or not SPEC.cuda:
        power: tl.constexpr = 2.0**RAISED
        lower = (both << 16).to(tl.float32, bitcast=True) * power
        upper = (both & 0xFFFF0000).to(tl.float32, bitcast=True) * power
        lower = lower.to(tl.uint32, bitcast=True) >> 16
        return lower | (upper.to(tl.uint32, bitcast=True) & 0xFFFF0000)
    else:
        # A product with -0.0 added: sm_80 has no product of pairs by itself.
        return tl.inline_asm_elementwise(
            "fma.rn.bf16x2 $0, $1, $2, $3;",
            "=r,r,r,r",
            [both, (RAISED + 127) * 0x00800080, 0x80008000],
            dtype=tl.uint32,
            is_pure=True,
            pack=1,
        )
