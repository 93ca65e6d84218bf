"""Floating-point numbers of 4, 6 and 8 bits: the value of every code.

A code is a sign bit, E exponent bits and M mantissa bits; an exponent of zero is subnormal, and the
bias is 2^(E-1) - 1. What is not a number differs: e5m2 has infinities and NaNs as IEEE 754, e4m3 a
NaN alone in the last code of each sign (Micikevicius et al., FP8 formats for deep learning, 2022),
e2m3, e3m2 and e2m1 have none (OCP Microscaling Formats v1.0, 5.3).
"""

import math


def values(exponent_bits: int, mantissa_bits: int) -> list[float]:
    """The value of each code, from 0 on.

    >>> values(2, 1)[:8]
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    bias = 2 ** (exponent_bits - 1) - 1
    positive = []
    for exponent in range(2**exponent_bits):
        for mantissa in range(2**mantissa_bits):
            lead = 1 if exponent else 0
            value = math.ldexp(
                lead * 2**mantissa_bits + mantissa, max(exponent, 1) - bias - mantissa_bits
            )
            positive.append(value)
    if exponent_bits + mantissa_bits == 7:
        _set_specials(positive, exponent_bits, mantissa_bits)
    return [*positive, *(-value for value in positive)]


def _set_specials(positive: list[float], exponent_bits: int, mantissa_bits: int) -> None:
    if exponent_bits == 4:
        positive[-1] = math.nan
        return
    last = 2**mantissa_bits
    positive[-last:] = [math.inf] + [math.nan] * (last - 1)
