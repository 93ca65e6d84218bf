"""Scales and offsets of groups, as they are stored and in float32, and choices: see `grids`."""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# What follows an `if` that returns is compiled as well, unless it is its `else`.
# ruff: noqa: RET505

import triton
import triton.language as tl


@triton.jit
def load_grid(tile, index, PER: tl.constexpr):
    """The grid of a tile's rows in a group, as it is stored; 0 beyond the last row."""
    places = tile.grid + tl.cast(index // PER, tl.int64) * tile.rows + tile.own
    return tl.load(places, mask=tile.own < tile.rows, other=0)


@triton.jit
def load_choices(tile, index, SPEC: tl.constexpr):
    """The word of choices of a tile's rows that a group's is in; None as it is."""
    if tile.choices is None:
        return None
    else:
        places = tile.choices + tl.cast(index // SPEC.choices_per, tl.int64) * tile.rows + tile.own
        return tl.load(places, mask=tile.own < tile.rows, other=0)


@triton.jit
def chosen_entry(choices, index, SPEC: tl.constexpr):
    """The lower and the upper byte of each row's own entry of its table; None of no choices."""
    if choices is None:
        return None
    else:
        shift = ((choices.to(tl.uint32) >> (index % SPEC.choices_per * 2)) & 3) * 8
        low = tl.full([SPEC.rows], SPEC.numbers.low_choices, tl.uint32) >> shift & 0xFF
        high = tl.full([SPEC.rows], SPEC.numbers.high_choices, tl.uint32) >> shift & 0xFF
        return low[:, None], high[:, None]


@triton.jit
def load_step(step, n, SPEC: tl.constexpr):
    """What multiplies all scales or offsets of each row, in float32; None as it is.

    Where a row has several it is where they begin.
    """
    if step is None:
        return None
    elif SPEC.steps > 1:
        return step + n.to(tl.int64) * SPEC.steps
    else:
        return tl.load(step + n).to(tl.float32)


@triton.jit
def scale_and_offset(tile, stored, index, number, SPEC: tl.constexpr):
    """Both of each row in float32; the scale twice, where there is no offset.

    `index` is the group's in the row, and so is `number`, or as far as it says which of a word's
    groups it is.
    """
    if SPEC.scale == "step":
        return _of_steps(tile, stored.to(tl.uint32), index, number, SPEC)
    elif SPEC.scale != "bf16":
        scale = _of_byte(stored.to(tl.uint32) >> (number % SPEC.per * 8) & 0xFF, SPEC)
        return scale, scale
    elif stored.dtype == tl.bfloat16:
        scale = stored.to(tl.float32)
        return scale, scale
    else:
        first = (stored << 16).to(tl.float32, bitcast=True)
        second = (stored & 0xFFFF0000).to(tl.float32, bitcast=True)
        if SPEC.symmetric:
            scale = first if number % 2 == 0 else second
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


@triton.jit
def _of_steps(tile, stored, index, number, SPEC: tl.constexpr):
    """A byte, of offsets and of a second plane one less 128, times the row's step."""
    step = _step_of(tile.scale_step, index, SPEC)
    if SPEC.symmetric:
        scale = _number(stored >> (number % SPEC.per * 8), SPEC.centre) * step
        return scale, scale
    else:
        both = stored >> (number % SPEC.per * 16)
        of_offset = _step_of(tile.offset_step, index, SPEC)
        return _number(both, 0) * step, _number(both >> 8, 128) * of_offset


@triton.jit
def _step_of(step, index, SPEC: tl.constexpr):
    """Of several the one that a group's scale is a byte of."""
    if SPEC.steps > 1:
        return tl.load(step + index // SPEC.shared).to(tl.float32)
    else:
        return step


@triton.jit
def _number(stored, CENTRE: tl.constexpr):
    # 2^23 + q has q for its last bits.
    number = (stored & 0xFF | 0x4B000000).to(tl.float32, bitcast=True)
    return number - (8388608.0 + CENTRE)
