"""How a product is cut into programs: a model of the device, so the same for the same shapes.

Nothing is tried out at run time: what runs depends on nothing but shapes, scheme and device.
"""

from dataclasses import dataclass

from bitplan.kernels.gpu.layout import PAIRS, PANEL

DECODE_TOKENS = 16
"""Up to so many tokens codes are read for all of them at once, as memory allows."""

MANTISSA = {"bf16": 7, "fp16": 10}
"""Bits of the numbers that codes become."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What the model knows of a device."""

    multiprocessors: int
    warp: int = 32
    cuda: bool = True


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """How codes become numbers: see `unpack`.

    A code q becomes 1 + q / unit with its lowest bit at bit `target` of the mantissa, or q - half
    if it is centred; `zero` is what the number has too much, for the weight q - half.
    """

    target: int
    centred: bool
    unit: float
    zero: float


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Sizes of a launch: rows of the weight and tokens of a program, warps, and loads ahead.

    `many` tokens have each weight made once for all of them: see `panel`. `splits` programs
    share the columns, `panels` each; their sums are then added in order. `registers` of a thread
    are as many as the compiler may take; by itself it spills some of them.
    """

    many: bool

    rows: int
    tokens: int
    warps: int
    stages: int
    panels: int
    splits: int = 1
    registers: int | None = None


def numbers_of(bits: int, dtype: str, *, precise: bool = False) -> Numbers:
    """The numbers that codes of some bits become in `bf16` or `fp16`.

    What is added to a code is taken from a float32 sum again. The higher the target, the less that
    is; but where a code lies at its target already, no shift is spent on it. `precise` asks for the
    highest.

    >>> numbers_of(4, "bf16")
    Numbers(target=0, centred=False, unit=128.0, zero=1.0625)
    """
    mantissa = MANTISSA[dtype]
    if bits > mantissa:
        return Numbers(target=0, centred=True, unit=1.0, zero=0.0)
    starts = {pair * bits % 16 for pair in range(PAIRS)}
    highest = mantissa - bits
    target = highest if precise else max(start for start in starts if start <= highest)
    unit = 2.0 ** (mantissa - target)
    return Numbers(target=target, centred=False, unit=unit, zero=1 + 2 ** (bits - 1) / unit)


def decode_blocks(rows: int, columns: int, tokens: int, device: Device) -> Blocks:
    """For few tokens: enough programs for every multiprocessor to have loads in flight.

    A program's loads in flight are its panels ahead: 32 bytes a row for every bit of a code.

    >>> decode_blocks(4096, 4096, 1, Device(multiprocessors=132))
    Blocks(many=False, rows=64, tokens=8, warps=2, stages=3, panels=2, splits=8, registers=160)
    """
    # AMD's tiles of 16 rows have 16 tokens.
    block = 8 if tokens <= 8 and device.cuda else 16
    # Sums of 16 tokens for 64 rows would not fit into registers of two warps beside the rest.
    height = 32 if block == 16 and device.cuda else 64
    programs = -(-rows // height) * -(-tokens // block)
    panels = columns // PANEL
    wanted = PROGRAMS * device.multiprocessors
    splits = max(1, min(wanted // max(1, programs), panels // MOST_OF_PANELS))
    each = max(1, -(-panels // splits))
    return Blocks(
        many=False,
        rows=height,
        tokens=block,
        warps=2,
        # AMD's loads go through registers: of what is ahead only one panel lies in shared memory.
        stages=3 if device.cuda else 2,
        registers=(160 if block == 8 else 192) if device.cuda else None,
        splits=max(1, -(-panels // each)),
        panels=each,
    )


PROGRAMS = 4
"""Programs of a decoding kernel that a multiprocessor should have."""

MOST_OF_PANELS = 2
"""Panels that a program should have at least, for its loads to overlap."""


def prefill_blocks(rows: int, columns: int, tokens: int, device: Device) -> Blocks:
    """For many tokens: as large a tile as registers hold, and no larger than the product.

    >>> prefill_blocks(4096, 4096, 512, Device(multiprocessors=132))
    Blocks(many=True, rows=128, tokens=128, warps=8, stages=2, panels=16, splits=1, registers=None)
    """
    del rows
    panels = max(1, columns // PANEL)
    if tokens <= 32:
        return Blocks(many=True, rows=64, tokens=32, warps=4, stages=3, panels=panels)
    if tokens <= 64 or not device.cuda:
        return Blocks(many=True, rows=128, tokens=64, warps=4, stages=2, panels=panels)
    return Blocks(many=True, rows=128, tokens=128, warps=8, stages=2, panels=panels)
