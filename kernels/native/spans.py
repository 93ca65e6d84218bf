"""The innermost loop of a product: some words of a block of rows, times one vector.

The codes of 64 rows are masked where they stand in their words, and turned into floating-point
numbers without being shifted down: the inputs are divided by the power of two that this lacks,
once for all rows. Sums are of codes; the scale multiplies them once a group. It is compiled for
each width that is used; `product` is all that goes around it.
"""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.native.compiled import STAMP, compiled
from bitplan.kernels.native.layout import SPAN, zero_of
from bitplan.kernels.native.memory import float32_at, int32_at, int64_at

ARGUMENTS = 10
(WORDS, FIRST_SPAN, SPANS, INPUTS, PARTS, SCALE, GROUP, GROUPS, ROWS, TOTAL) = range(ARGUMENTS)

HALF_SPAN = SPAN // 2
"""Columns that surely share a group."""


@cache
def add_spans(bits: int) -> Any:
    """What adds spans' products to the totals of a block's rows, compiled."""
    whole = SPAN // bits
    spare = SPAN - whole * bits
    mask = 2**bits - 1
    half = np.float32(zero_of(bits))
    zero = np.float32(0)

    stamp = STAMP

    @compiled(fastmath={"contract"})
    def add(address):
        _ = stamp
        frame = int64_at(address, ARGUMENTS)
        first, spans, rows = frame[FIRST_SPAN], frame[SPANS], frame[ROWS]
        group, groups = frame[GROUP], frame[GROUPS]
        words = int32_at(frame[WORDS], spans * bits * rows)
        inputs = float32_at(frame[INPUTS], (first + spans) * SPAN)
        parts = float32_at(frame[PARTS], (first + spans) * 2)
        scale = float32_at(frame[SCALE], groups * rows)
        total = float32_at(frame[TOTAL], rows)
        for span in range(spans):
            at = first + span
            # Slices: an index that might be negative would be tested for each row.
            some = words[span * bits * rows : (span + 1) * bits * rows]
            x = inputs[at * SPAN : (at + 1) * SPAN]
            low = at * SPAN // group * rows
            high = min((at * SPAN + HALF_SPAN) // group, groups - 1) * rows
            scale_low, scale_high = scale[low : low + rows], scale[high : high + rows]
            base_low, base_high = -half * parts[2 * at], -half * parts[2 * at + 1]
            for row in range(rows):
                # Two sums for each half: a processor adds to several at a time.
                a, b, c, d = base_low, zero, base_high, zero
                more = np.int32(0)
                for word in range(bits):
                    value = some[word * rows + row]
                    if spare:
                        top = np.int32(value >> (SPAN - spare)) & ((1 << spare) - 1)
                        more |= np.int32(top << (spare * word))
                    # In eights, for a longer loop is not unrolled, and then nothing is vectorised.
                    for eight in range((whole + 7) // 8):
                        for one in range(8):
                            place = eight * 8 + one
                            if place < whole:
                                column = word * whole + place
                                if (place + 1) * bits == SPAN:
                                    number = np.float32(np.int32((value >> (place * bits)) & mask))
                                else:
                                    number = np.float32(np.int32(value & (mask << (place * bits))))
                                term = number * x[column]
                                if column < HALF_SPAN:
                                    if column % 2:
                                        b += term
                                    else:
                                        a += term
                                elif column % 2:
                                    d += term
                                else:
                                    c += term
                for place in range(spare):
                    column = bits * whole + place
                    number = np.float32(np.int32(more & (mask << (place * bits))))
                    term = number * x[column]
                    if column % 2:
                        d += term
                    else:
                        c += term
                total[row] += scale_low[row] * (a + b) + scale_high[row] * (c + d)

    return add
