"""Whether weights that have their inputs in common run as one launch, and how it is cut.

A model of the device as `shapes` is, and nothing that is measured.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from bitplan.kernels.gpu.layout import panel_of
from bitplan.kernels.gpu.operator import unfit
from bitplan.kernels.gpu.shapes import (
    DECODE_TOKENS,
    MOST_OF_PANELS,
    Blocks,
    Device,
    decode_blocks,
)
from bitplan.kernels.gpu.steps import LAUNCH, panels_each, steps_alone, waves
from bitplan.schema import Scheme

Weights = tuple[tuple[Scheme, int], ...]
"""The scheme and the rows of each."""

MOST = 8
"""Weights of one launch."""

REGISTERS = 65536
"""Of a multiprocessor."""


@cache
def one_launch(
    weights: Weights, columns: int, tokens: int, device: Device
) -> tuple[tuple[Blocks, ...] | None, str]:
    """How each weight is cut in a launch of them all, or None; and the reason, in a sentence.

    A step is a panel that programs take beside each other, four a multiprocessor, or their start.

    >>> weights, device = ((Scheme.parse("int4g64"), 14336),) * 2, Device(multiprocessors=132)
    >>> blocks, why = one_launch(weights, 4096, 1, device)
    >>> why
    'One launch takes 17 steps, launches for themselves 20.'
    >>> blocks[0].splits, one_launch(weights, 4096, 64, device)[1]
    (1, 'One launch takes 1 to 16 tokens.')
    """
    if reason := _unfit(weights, columns, tokens):
        return None, reason
    alone = [decode_blocks(scheme, rows, columns, tokens, device) for scheme, rows in weights]
    if len({blocks.tokens for blocks in alone}) > 1:
        return None, "Some of the weights take more tokens at once than others."
    # The fewest splits of the quickest: each is a sum more.
    panels = max(columns // panel_of(scheme) for scheme, _ in weights)
    candidates = range(1, max(1, panels // MOST_OF_PANELS) + 1)
    steps, splits = min((_steps(weights, alone, n, columns, device), n) for n in candidates)
    apart = sum(
        steps_alone(weight, blocks, columns, device)
        for weight, blocks in zip(weights, alone, strict=True)
    )
    why = f"One launch takes {steps} steps, launches for themselves {apart}."
    if steps > apart:
        return None, why
    limit = _registers(weights, alone, device)
    cut = tuple(
        replace(blocks, splits=splits, panels=panels_each(scheme, columns, splits), registers=limit)
        for (scheme, _), blocks in zip(weights, alone, strict=True)
    )
    return cut, why


def _unfit(weights: Weights, columns: int, tokens: int) -> str | None:
    if not 2 <= len(weights) <= MOST:
        return f"One launch takes 2 to {MOST} weights."
    if not 1 <= tokens <= DECODE_TOKENS:
        return f"One launch takes 1 to {DECODE_TOKENS} tokens."
    for scheme, rows in weights:
        if scheme.is_composed or scheme.is_float or scheme.is_none or not rows:
            return "One of the weights is no packed matrix, or empty."
        if scheme.sparsity:
            return "Kernels of weights that are left out need all registers there are."
        if reason := unfit(scheme, columns):
            return f"{reason[0].upper()}{reason[1:]}."
    return None


def _steps(
    weights: Weights, blocks: Sequence[Blocks], splits: int, columns: int, device: Device
) -> int:
    """Panels that are taken one after another, programs' starts, and the launch of sums."""
    programs, is_summed = 0, splits > 1
    for (scheme, rows), of in zip(weights, blocks, strict=True):
        programs += scheme.family.planes * splits * -(-rows // of.rows)
        is_summed |= scheme.family.planes > 1
    each = max(panels_each(scheme, columns, splits) for scheme, _ in weights)
    return waves(programs, device) * (each + LAUNCH) + LAUNCH * is_summed


def _registers(weights: Weights, blocks: Sequence[Blocks], device: Device) -> int | None:
    """The limit of a launch: that of its weights where all are of one scheme.

    Else a little more than the highest, or than 192 where a weight has none, and then as many as
    leave the same number of programs at once: what is enough for one spills beside others. Doubled
    scales and codes of 8 bits take more. Found by compiling, as those of `shapes` are.
    """
    limits = [of.registers for of in blocks]
    schemes = {scheme for scheme, _ in weights}
    is_doubled = any(scheme.double for scheme in schemes)
    if not device.cuda or (len(schemes) == 1 and not is_doubled):
        return limits[0]
    of_bytes = {scheme.double for scheme in schemes if scheme.is_integer and scheme.bits == 8}
    if len(schemes) > 1 and of_bytes == {False} and blocks[0].tokens == 8:
        return 240
    most = max(limit or 192 for limit in limits) + (16 if is_doubled else 8)
    threads = device.warp * blocks[0].warps
    programs = REGISTERS // (most * threads)
    return min(255, REGISTERS // programs // threads // 8 * 8)
