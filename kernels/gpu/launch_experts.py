"""Launching the product with experts: see `experts`."""

from collections.abc import Sequence
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


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The launches that multiply with a stack, each of its inputs, a plane of it, and the constant.

    Each makes a product for every split; the sum of all of them is the stack's.
    """

    members: Tensor | None
    blocks: Blocks
    launches: Sequence[tuple[Tensor, Tensor, Tensor, dict[str, Tensor], Spec]]

    @property
    def sums(self) -> int:
        """How many the product is the sum of."""
        return self.blocks.splits * len(self.launches)


def multiply_experts(
    inputs: Float[Tensor, "tokens in"], ends: Int[Tensor, "experts"], stacks: Sequence[Stack]
) -> Float[Tensor, "tokens out"]:
    """Product of each token with the transposed weight of its expert, in the inputs' dtype.

    Tokens are sorted by expert, and each expert is in one of the stacks. What comes after the last
    one's end is not written, or it is a sum of what was not.
    """
    tokens, rows = len(inputs), stacks[0].grid.shape[2]
    output = inputs.new_empty(tokens, rows)
    if not output.numel():
        return output
    if inputs.dtype not in NAMES:
        copies = thirds(inputs).chunk(PARTS)
    else:
        copies = [inputs.contiguous() if inputs.stride(-1) != 1 else inputs]
    cuts = [_cut(stack, copies, len(ends)) for stack in stacks]
    if summed := [cut for cut in cuts if cut.sums > 1]:
        most, fewest = (of(cut.sums for cut in summed) for of in (max, min))
        parts = inputs.new_empty((most, tokens, rows), dtype=torch.float32)
        # Stacks of fewer sums write nothing here.
        parts[fewest:].zero_()
        for cut in summed:
            _launch_all(cut, ends, parts)
        add_up(parts, output, most)
    # Last, for the sum has written all tokens, theirs too.
    for cut in cuts:
        if cut.sums == 1:
            _launch_all(cut, ends, output[None])
    return output


def _cut(stack: Stack, copies: Sequence[Tensor], experts: int) -> Cut:
    """A product of one copy of the inputs, or of those that they are the sum of."""
    (tokens, columns), dtype = copies[0].shape, NAMES[copies[0].dtype]
    scheme, own, rows = stack.scheme, stack.grid.shape[0], stack.grid.shape[2]
    device, precise = device_of(copies[0].device), len(copies) > 1
    shape = (rows, columns, expected_tokens(tokens, own, experts), own)
    is_part = stack.members is not None
    blocks = experts_blocks(scheme, *shape, device, precise=precise, members=is_part)
    beside = dict(zip(all_beside(scheme), stack.beside, strict=True))
    planes = planes_of(stack.codes, stack.grid, beside, scheme)
    tables = range(parts_of(scheme, precise=precise))
    launches = []
    for (number, plane), part, copy in product(enumerate(planes), tables, copies):
        of = {"precise": precise, "part": part, "plane": number}
        launches.append((copy, *plane, spec_of(columns, dtype, scheme, blocks, device, **of)))
    return Cut(members=stack.members, blocks=blocks, launches=launches)


def _launch_all(cut: Cut, ends: Tensor, parts: Tensor) -> None:
    """Write what launches make, one after another: [parts, tokens, rows]."""
    of_each = parts.split(cut.blocks.splits)[: len(cut.launches)]
    for (inputs, codes, grid, beside, spec), target in zip(cut.launches, of_each, strict=True):
        _launch(inputs, ends, cut.members, codes, grid, beside, target, spec, cut.blocks)


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
    members: bool = False,
) -> Blocks:
    """As if each expert had as many tokens as any other, and as much of the device.

    `members` says that experts are told by their numbers.

    >>> device = Device(multiprocessors=132)
    >>> experts_blocks(Scheme.parse("int4g64"), 1536, 2048, 8, 128, device).splits
    2
    """
    busy = min(tokens, experts)
    share = replace(device, multiprocessors=max(1, device.multiprocessors // busy))
    blocks = blocks_of(scheme, rows, columns, -(-tokens // busy), share, precise=precise)
    # Found by compiling, and held to by tests. Beside what tells experts apart, the limit of tables
    # in groups of 16 spills, and so do 4 warps; of ternary codes in all groups but those of 16.
    # Beside experts' numbers, limits of other tables from 192 to 224 spill on sm_120. At the limit
    # of one weight bytes spill: doubled ones on sm_90, those of one scale a row on sm_80.
    is_small, is_table = scheme.group_size == 16, scheme.format in ("nf3", "nf4")
    if not device.cuda:
        return blocks
    if scheme.is_integer and scheme.bits == 8 and not scheme.sparsity and blocks.tokens == 8:
        if scheme.double:
            return replace(blocks, registers=None)
        if scheme.symmetric and scheme.group_size is None:
            return replace(blocks, registers=184)
    if is_table and is_small:
        blocks = replace(blocks, registers=None)
    elif is_table and members and blocks.registers:
        return replace(blocks, registers=255)
    elif is_small or not scheme.family.is_ternary:
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
    experts: Any = len(ends)
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
            None if members is None else len(members),
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
