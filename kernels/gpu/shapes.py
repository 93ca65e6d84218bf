"""How a product is cut into programs: a model of the device, so the same for the same shapes.

Nothing is tried out at run time, unless that is asked for (`trials`): what runs depends on nothing
but shapes, scheme and device.
"""

from dataclasses import dataclass, replace

from bitplan.kernels.gpu.layout import PANEL, panel_of
from bitplan.kernels.gpu.numbers import numbers_of
from bitplan.schema import Scheme

DECODE_TOKENS = 16
"""Up to so many tokens codes are read for all of them at once, as memory allows."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What the model knows of a device."""

    multiprocessors: int
    warp: int = 32
    cuda: bool = True


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Sizes of a launch: rows of the weight and tokens of a program, warps, and loads ahead.

    `many` tokens have each weight made once for all of them: see `panel`. `splits` programs
    share the columns, `panels` each; their sums are then added in order. `registers` of a thread
    are as many as the compiler may take, where it is told.
    """

    many: bool

    rows: int
    tokens: int
    warps: int
    stages: int
    panels: int
    splits: int = 1
    registers: int | None = None


def blocks_of(
    scheme: Scheme, rows: int, columns: int, tokens: int, device: Device, *, precise: bool = False
) -> Blocks:
    """For any number of tokens; `precise` sums are of numbers of codes, as those of few tokens."""
    if tokens > DECODE_TOKENS and not precise:
        blocks = prefill_blocks(rows, columns, tokens, device, panel=panel_of(scheme))
        # Tables of each row's own: 4 warps spill on sm_100, and 8 on sm_120 without a limit.
        is_tight = scheme.family.choices > 1 and device.cuda and blocks.tokens == 64
        if is_tight:
            return replace(blocks, warps=8, registers=160)
        if scheme.double and device.cuda and blocks.tokens <= 64:
            # 4 warps spill for 64 tokens on sm_80 and sm_120; some spill unless they are told.
            return replace(blocks, warps=8 if blocks.tokens == 64 else blocks.warps, registers=168)
        if _has_streams(scheme) and device.cuda:
            # Beside streams there is no shared memory on sm_120 for 128 tokens.
            small = blocks.tokens == 32
            return replace(blocks, registers=168) if small else replace(blocks, tokens=64, warps=8)
        if scheme.sparsity and device.cuda and blocks.tokens == 64:
            # Codes of an eight in two words, or what is no whole panel, spill from 4 warps.
            is_tight = columns % PANEL or scheme.sparsity.columns(8) > 4
            return replace(blocks, warps=8) if is_tight else blocks
        return blocks
    return decode_blocks(scheme, rows, columns, tokens, device)


def _has_streams(scheme: Scheme) -> bool:
    """Whether codes of a row are a stream, of which each cell takes registers for its most."""
    return scheme.sparsity is not None and scheme.sparsity.block is None


def decode_blocks(scheme: Scheme, rows: int, columns: int, tokens: int, device: Device) -> Blocks:
    """For few tokens: enough programs for every multiprocessor to have loads in flight.

    A program's loads in flight are its panels ahead: 32 bytes a row for every bit of a code.

    >>> decode_blocks(Scheme.parse("int4g64"), 4096, 4096, 1, Device(multiprocessors=132))
    Blocks(many=False, rows=64, tokens=8, warps=2, stages=3, panels=2, splits=8, registers=160)
    """
    # Twenty groups of a panel, with 16 tokens, spill at any limit.
    is_crowded = scheme.family.is_ternary and scheme.group_size == 16
    # So do blocks of N:M where columns are no whole panels, on sm_120.
    is_crowded |= bool(scheme.sparsity and scheme.sparsity.block and columns % PANEL)
    # AMD's tiles of 16 rows have 16 tokens.
    block = 8 if (tokens <= 8 or is_crowded) and device.cuda else 16
    # Sums of 16 tokens for 64 rows would not fit into registers of two warps beside the rest, nor
    # would streams of codes.
    height = 32 if (block == 16 or _has_streams(scheme)) and device.cuda else 64
    programs = -(-rows // height) * -(-tokens // block)
    panels = columns // panel_of(scheme)
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
        registers=_registers(scheme, columns, block) if device.cuda else None,
        splits=max(1, -(-panels // each)),
        panels=each,
    )


def _registers(scheme: Scheme, columns: int, tokens: int) -> int | None:
    """A limit where the assembler's own choice spills, and none where it does not.

    Found by compiling, and held to by tests: the same limit makes other kernels spill.
    """
    if scheme.sparsity:
        if not _has_streams(scheme):
            return 255
        return 168 if tokens == 8 and columns % PANEL == 0 else None
    if scheme.family.is_ternary:
        return 224 if scheme.group_size == 128 and tokens == 16 else None
    kind = numbers_of(scheme, "bf16").kind
    if columns % panel_of(scheme) or kind == "float":
        return None
    if kind == "table":
        has_many_tables = scheme.family.choices > 1 and scheme.group_size == 16
        return None if has_many_tables else 200
    if scheme.group_size is not None and scheme.group_size < 64:
        return 200 if tokens == 8 else None
    if scheme.double and scheme.bits == 8:
        return 168 if tokens == 8 else 200
    return 160 if tokens == 8 else 192


PROGRAMS = 4
"""Programs of a decoding kernel that a multiprocessor should have."""

MOST_OF_PANELS = 2
"""Panels that a program should have at least, for its loads to overlap."""


def prefill_blocks(
    rows: int, columns: int, tokens: int, device: Device, *, panel: int = PANEL
) -> Blocks:
    """For many tokens: as large a tile as registers hold, and no larger than the product.

    >>> prefill_blocks(4096, 4096, 512, Device(multiprocessors=132))
    Blocks(many=True, rows=128, tokens=128, warps=8, stages=2, panels=16, splits=1, registers=None)
    """
    del rows
    panels = max(1, columns // panel)
    if tokens <= 32:
        return Blocks(many=True, rows=64, tokens=32, warps=4, stages=3, panels=panels)
    if tokens <= 64 or not device.cuda:
        return Blocks(many=True, rows=128, tokens=64, warps=4, stages=2, panels=panels)
    return Blocks(many=True, rows=128, tokens=128, warps=8, stages=2, panels=panels)


LOOKUP = Blocks(many=False, rows=8, tokens=1, warps=2, stages=1, panels=1)
"""For rows that are looked up: eight of them, a panel each."""
