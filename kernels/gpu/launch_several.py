"""Launching the product with several weights that have their inputs in common: see `several`."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from bitplan.kernels.gpu import launch
from bitplan.kernels.gpu.grids import all_beside, words_of
from bitplan.kernels.gpu.launch import NAMES, REDUCED_AT_ONCE, options, planes_of
from bitplan.kernels.gpu.several import matmul_of_several, reduce_several
from bitplan.kernels.gpu.shapes import Blocks
from bitplan.kernels.gpu.spec import Spec, spec_of
from bitplan.kernels.gpu.together import one_launch
from bitplan.schema import Scheme

PARAMETERS = ("matrix_scale", "scale_step", "offset_step", "choices")
"""What a weight has beside codes and grid, in the order of the kernel."""


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
    device = launch.device_of(inputs.device)
    blocks = None
    if inputs.dtype in NAMES:
        blocks, _ = one_launch(tuple(zip(schemes, rows, strict=True)), columns, tokens, device)
    if blocks is None:
        of_each = zip(codes, grids, beside, schemes, strict=True)
        return [launch.multiply(inputs, *weight) for weight in of_each]
    inputs = inputs.contiguous() if inputs.stride(-1) != 1 else inputs
    outputs = [inputs.new_empty(tokens, count) for count in rows]
    members, sums = [], []
    for number, scheme in enumerate(schemes):
        named = dict(zip(all_beside(scheme), beside[number], strict=True))
        planes = planes_of(codes[number], grids[number], named, scheme)
        of, copies = blocks[number], len(planes) * blocks[number].splits
        if copies == 1:
            targets = [outputs[number]]
        else:
            shape = (len(planes), of.splits, tokens, rows[number])
            targets = inputs.new_empty(shape, dtype=torch.float32)
            sums.append((targets, outputs[number], outputs[number].numel(), copies))
        for plane, (held, target) in enumerate(zip(planes, targets, strict=True)):
            spec = spec_of(columns, NAMES[inputs.dtype], scheme, of, device, plane=plane)
            members.append((spec, (*_arguments(*held), target, rows[number])))
    _launch(inputs, members, blocks[0])
    if sums:
        _add_up(sums)
    return outputs


def _arguments(codes: Tensor, grid: Tensor, beside: dict[str, Tensor]) -> tuple[Any, ...]:
    return (codes, words_of(grid), *(beside.get(name) for name in PARAMETERS))


def kinds_of(members: Sequence[tuple[Spec, Any]]) -> dict[Spec, list[Any]]:
    """The weights of each constant, in an order that does not depend on that of the weights."""
    kinds: dict[Spec, list[Any]] = {}
    for spec, member in sorted(members, key=lambda one: repr(one[0])):
        kinds.setdefault(spec, []).append(member)
    return kinds


def _launch(inputs: Tensor, members: Sequence[tuple[Spec, tuple]], blocks: Blocks) -> None:
    """Write the products of each split of each member, [splits, tokens, rows]."""
    kinds = kinds_of(members)
    of_rows = sum(triton.cdiv(member[-1], spec.rows) for spec, member in members)
    programs = (of_rows, blocks.splits, triton.cdiv(len(inputs), blocks.tokens))
    specs: Any = tuple(kinds)
    # Triton launches on the current device.
    with torch.cuda.device_of(inputs):
        matmul_of_several[programs](
            inputs,
            tuple(tuple(of_kind) for of_kind in kinds.values()),
            len(inputs),
            inputs.stride(0),
            SPECS=specs,
            **options(blocks),
        )


def _add_up(sums: Sequence[tuple[Tensor, Tensor, int, int]]) -> None:
    """Write the sums of each one's copies to its output."""
    block: Any = REDUCED_AT_ONCE
    programs = (sum(triton.cdiv(size, REDUCED_AT_ONCE) for _, _, size, _ in sums),)
    with torch.cuda.device_of(sums[0][1]):
        reduce_several[programs](tuple(sums), BLOCK=block)
