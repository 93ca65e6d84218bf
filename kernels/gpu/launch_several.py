"""Launching the product with several weights that have their inputs in common: see `several`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from bitplan.kernels.gpu import launch
from bitplan.kernels.gpu.grids import all_beside, beside_of, words_of
from bitplan.kernels.gpu.launch import NAMES, REDUCED_AT_ONCE, options, planes_of
from bitplan.kernels.gpu.several import matmul_of_several, reduce_several
from bitplan.kernels.gpu.shapes import Blocks, Device
from bitplan.kernels.gpu.spec import Spec, spec_of
from bitplan.kernels.gpu.together import Weights, one_launch
from bitplan.schema import Scheme

PARAMETERS = ("matrix_scale", "scale_step", "offset_step", "choices")
"""What a weight has beside codes and grid, in the order of the kernel."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A launch of several weights: its blocks, and of each kind of weights the constant.

    The weights of a kind are one piece of code; `kinds` has their numbers, and those of their
    planes. Of each number of `copies` one output is the sum, or the product itself where it is 1.
    """

    blocks: Blocks
    specs: tuple[Spec, ...]
    kinds: tuple[tuple[tuple[int, int], ...], ...]
    copies: tuple[int, ...]


@cache
def cut_of(weights: Weights, columns: int, tokens: int, dtype: str, device: Device) -> Cut | None:
    """How weights run as one launch, or None where they do not.

    The order of kinds does not depend on that of the weights: so fewer kernels are compiled.
    """
    blocks, _ = one_launch(weights, columns, tokens, device)
    if blocks is None:
        return None
    kinds: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    copies = [scheme.family.planes * blocks[0].splits for scheme, _ in weights]
    for number, (scheme, _) in enumerate(weights):
        for plane in range(scheme.family.planes):
            spec = spec_of(columns, dtype, scheme, blocks[number], device, plane=plane)
            # What is written to is of one type, and what is read beside codes is there or not.
            kind = (spec, copies[number] > 1, *beside_of(scheme, plane))
            kinds.setdefault(kind, []).append((number, plane))
    ordered = sorted(kinds, key=repr)
    return Cut(
        blocks=blocks[0],
        specs=tuple(spec for spec, *_ in ordered),
        kinds=tuple(tuple(kinds[kind]) for kind in ordered),
        copies=tuple(copies),
    )


def multiply_several(
    inputs: Float[Tensor, "tokens in"],
    codes: Sequence[Tensor],
    grids: Sequence[Tensor],
    beside: Sequence[Sequence[Tensor]],
    schemes: Sequence[Scheme],
) -> list[Float[Tensor, "tokens out"]]:
    """Products with the transposed weights, each as `multiply` makes it, in the inputs' dtype.

    In one launch where `one_launch` says so, and else one after the other.
    """
    (tokens, columns), rows = inputs.shape, [grid.shape[1] for grid in grids]
    cut = None
    if inputs.dtype in NAMES:
        device, weights = launch.device_of(inputs.device), tuple(zip(schemes, rows, strict=True))
        cut = cut_of(weights, columns, tokens, NAMES[inputs.dtype], device)
    if cut is None:
        of_each = zip(codes, grids, beside, schemes, strict=True)
        return [launch.multiply(inputs, *weight) for weight in of_each]
    inputs = inputs.contiguous() if inputs.stride(-1) != 1 else inputs
    outputs = [inputs.new_empty(tokens, count) for count in rows]
    members, sums = {}, []
    for number, (scheme, output, copies) in enumerate(
        zip(schemes, outputs, cut.copies, strict=True)
    ):
        named = dict(zip(all_beside(scheme), beside[number], strict=True))
        planes = planes_of(codes[number], grids[number], named, scheme)
        parts = [output]
        if copies > 1:
            shape = (len(planes), cut.blocks.splits, tokens, rows[number])
            parts = inputs.new_empty(shape, dtype=torch.float32)
            sums.append((parts, output, output.numel(), copies))
        for plane, ((of_codes, grid, of), part) in enumerate(zip(planes, parts, strict=True)):
            rest = (*(of.get(name) for name in PARAMETERS), part, rows[number])
            members[number, plane] = (of_codes, words_of(grid), *rest)
    _launch(inputs, members, cut)
    if sums:
        _add_up(sums)
    return outputs


def _launch(inputs: Tensor, members: dict[tuple[int, int], tuple], cut: Cut) -> None:
    """Write the products of each split of each weight's planes, [splits, tokens, rows]."""
    kinds = tuple(tuple(members[one] for one in kind) for kind in cut.kinds)
    of_rows = sum(
        triton.cdiv(weight[-1], spec.rows)
        for spec, kind in zip(cut.specs, kinds, strict=True)
        for weight in kind
    )
    programs = (of_rows, cut.blocks.splits, triton.cdiv(len(inputs), cut.blocks.tokens))
    specs: Any = cut.specs
    # Triton launches on the current device.
    with torch.cuda.device_of(inputs):
        matmul_of_several[programs](
            inputs, kinds, len(inputs), inputs.stride(0), SPECS=specs, **options(cut.blocks)
        )


def _add_up(sums: Sequence[tuple[Tensor, Tensor, int, int]]) -> None:
    """Write to each output the sum of its parts, which are so many copies of its size."""
    block: Any = REDUCED_AT_ONCE
    programs = (sum(triton.cdiv(size, REDUCED_AT_ONCE) for _, _, size, _ in sums),)
    with torch.cuda.device_of(sums[0][1]):
        reduce_several[programs](tuple(sums), BLOCK=block)
