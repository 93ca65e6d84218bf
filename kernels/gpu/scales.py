"""Scales and offsets of groups, as they are stored and in float32: see `layout`."""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl


@triton.jit
def load_grid(tile, index, PER: tl.constexpr):
    """The grid of a tile's rows in a group, as it is stored; 0 beyond the last row.

    Words of 32 bits, a scale and an offset or the scales of two or four groups, for only whole
    words are read ahead; or single scales.
    """
    places = tile.grid + tl.cast(index // PER, tl.int64) * tile.rows + tile.own
    return tl.load(places, mask=tile.own < tile.rows, other=0)


@triton.jit
def scale_and_offset(stored, index, SPEC: tl.constexpr):
    """Both of each row in float32; the scale twice, where there is no offset."""
    if SPEC.scale != "bf16":
        scale = _of_byte(stored.to(tl.uint32) >> (index % SPEC.per * 8) & 0xFF, SPEC)
        return scale, scale
    elif stored.dtype == tl.bfloat16:
        scale = stored.to(tl.float32)
        return scale, scale
    else:
        first = (stored << 16).to(tl.float32, bitcast=True)
        second = (stored & 0xFFFF0000).to(tl.float32, bitcast=True)
        if SPEC.symmetric:
            scale = first if index % 2 == 0 else second
            return scale, scale
        else:
            return first, second


@triton.jit
def _of_byte(byte, SPEC: tl.constexpr):
    if SPEC.scale == "e8m0":
        # 2^-127, of the byte 0, is subnormal: half of what the lowest exponent is.
        return tl.maximum(byte << 23, 0x00400000).to(tl.float32, bitcast=True)
    else:
        # As in `floats`: an e4m3 number within a float32 lacks 2^120.
        return (byte << 20).to(tl.float32, bitcast=True) * 2.0**120
