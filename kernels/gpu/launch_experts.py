"""Launching the product with experts: see `experts`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.kernels.gpu.experts import matmul_of_experts
from bitplan.kernels.gpu.grids import all_beside, words_of
from bitplan.kernels.gpu.launch import NAMES, add_up, device_of, options, planes_of, thirds
from bitplan.kernels.gpu.numbers import PARTS, parts_of
from bitplan.kernels.gpu.shapes import Blocks, Device, blocks_of
from bitplan.kernels.gpu.spec import Spec, spec_of
from bitplan.schema import Scheme


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Experts of one scheme, laid out one after another, and their numbers; None: they are all."""

    codes: Tensor
    grid: Tensor
    beside: Sequence[Tensor]
    scheme: Scheme
    members: Int[Tensor, "of_stack"] | None = None


def multiply_experts(
    inputs: Float[Tensor, "tokens in"], ends: Int[Tensor, "experts"], stacks: Sequence[Stack]
) -> Float[Tensor, "tokens out"]:
    """Product of each token with the transposed weight of its expert, in the inputs' dtype.

    Tokens are sorted by expert, and each expert is in one of the stacks. What comes after the last
    one's end is not written, or it is a sum of what was not.
    """
    (tokens, columns), rows, experts = inputs.shape, stacks[0].grid.shape[2], len(ends)
    output = inputs.new_empty(tokens, rows)
    if not output.numel():
        return output
    device, precise = device_of(inputs.device), inputs.dtype not in NAMES
    if precise:
        copies = thirds(inputs).chunk(PARTS)
    else:
        copies = [inputs.contiguous() if inputs.stride(-1) != 1 else inputs]
    cuts = []
    for stack in stacks:
        own = len(stack.grid)
        of_stack = (rows, columns, expected_tokens(tokens, own, experts), own)
        blocks = experts_blocks(stack.scheme, *of_stack, device, precise=precise)
        cuts.append((stack, blocks, list(_launches(stack, copies, blocks, device))))
    sums = [blocks.splits * len(launches) for _, blocks, launches in cuts]
    most = max(sums)
    if most == 1:
        parts = output[None]
    else:
        parts = inputs.new_empty((most, tokens, rows), dtype=torch.float32)
        # Where another stack's tokens have more sums, those of this one are as many by zeros.
        parts[min(sums) :].zero_()
    for stack, blocks, launches in cuts:
        for number, (copy, *plane, spec) in enumerate(launches):
            target = parts[number * blocks.splits :][: blocks.splits]
            _launch(copy, ends, stack.members, *plane, target, spec, blocks)
    return output if most == 1 else add_up(parts, output, most)


def _launches(
    stack: Stack, copies: Sequence[Tensor], blocks: Blocks, device: Device
) -> Iterator[tuple[Tensor, Tensor, Tensor, dict[str, Tensor], Spec]]:
    """Inputs, a plane of the weights, and the constant, of each launch for a stack."""
    scheme, precise = stack.scheme, len(copies) > 1
    beside = dict(zip(all_beside(scheme), stack.beside, strict=True))
    planes = planes_of(stack.codes, stack.grid, beside, scheme)
    tables = range(parts_of(scheme, precise=precise))
    for (number, plane), part, copy in product(enumerate(planes), tables, copies):
        given = (copy.shape[1], NAMES[copy.dtype], scheme, blocks, device)
        yield copy, *plane, spec_of(*given, precise=precise, part=part, plane=number)


def expected_tokens(tokens: int, of_stack: int, experts: int) -> int:
    """How many tokens a stack of some of all experts is cut for: its share, if all had as many.

    How many it gets, only the device knows.

    >>> [expected_tokens(tokens, 3, 8) for tokens in (1, 8, 64)]
    [1, 3, 24]
    """
    return -(-tokens * of_stack // experts)


def experts_blocks(
    scheme: Scheme,
    rows: int,
    columns: int,
    tokens: int,
    experts: int,
    device: Device,
    *,
    precise: bool = False,
) -> Blocks:
    """As if each expert had as many tokens as any other, and as much of the device.

    >>> device = Device(multiprocessors=132)
    >>> experts_blocks(Scheme.parse("int4g64"), 1536, 2048, 8, 128, device).splits
    2
    """
    busy = min(tokens, experts)
    share = replace(device, multiprocessors=max(1, device.multiprocessors // busy))
    blocks = blocks_of(scheme, rows, columns, -(-tokens // busy), share, precise=precise)
    # Found by compiling, and held to by tests. Beside what tells experts apart, the limit of tables
    # in groups of 16 spills, and so do 4 warps; of ternary codes in all groups but those of 16.
    is_small = scheme.group_size == 16
    if device.cuda and is_small and scheme.format in ("nf3", "nf4"):
        blocks = replace(blocks, registers=None)
    elif not device.cuda or is_small or not scheme.family.is_ternary:
        return blocks
    return replace(blocks, warps=8) if blocks.many and blocks.tokens == 64 else blocks


def most_blocks(tokens: int, experts: int, block: int) -> int:
    """Blocks that tokens can fill at most, each of one expert's, however many each has.

    >>> [most_blocks(tokens, 4, 8) for tokens in (2, 8, 64)]
    [2, 4, 11]
    """
    return (tokens + min(tokens, experts) * (block - 1)) // block


def _launch(
    inputs: Tensor,
    ends: Tensor,
    members: Tensor | None,
    codes: Tensor,
    grid: Tensor,
    beside: dict[str, Tensor],
    outputs: Tensor,
    spec: Spec,
    blocks: Blocks,
) -> None:
    """Write the products of each split, [splits, tokens, rows]."""
    (tokens, rows), words, choices = outputs.shape[-2:], words_of(grid[0]), beside.get("choices")
    of_tokens = most_blocks(tokens, len(grid), blocks.tokens)
    programs = (-(-rows // blocks.rows), blocks.splits, of_tokens)
    constant: Any = spec
    experts: Any = len(grid)
    # Triton launches on the current device.
    with torch.cuda.device_of(inputs):
        matmul_of_experts[programs](
            inputs,
            codes,
            words,
            beside.get("matrix_scale"),
            beside.get("scale_step"),
            beside.get("offset_step"),
            choices,
            outputs,
            ends,
            members,
            rows,
            tokens,
            inputs.stride(0),
            blocks.panels,
            codes.stride(0),
            grid.stride(0) * grid.itemsize // words.itemsize,
            0 if choices is None else choices.stride(0),
            EXPERTS=experts,
            SPEC=constant,
            **options(blocks),
        )
