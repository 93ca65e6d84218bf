"""Which weights of a row are kept: packed, and the way between all weights and the kept ones.

N:M sparsity stores for every block of M the number of its pattern, in the lexicographic order of
the places that are kept: 3 bits for every four weights of 2:4. Otherwise there is a bit a weight.
Codes are packed as `bits` says; padding is zero.
"""

from functools import cache
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from bitplan.formats import bits
from bitplan.schema import Sparsity

AT_ONCE = 1 << 16
"""Weights that are made zero at once: what stays in a processor's cache."""


def pack_mask(
    mask: Bool[Tensor, "*rows columns"], sparsity: Sparsity
) -> UInt8[Tensor, "*rows bytes"]:
    """Pack a mask, True where a weight is kept, that has just this sparsity.

    >>> pack_mask(torch.tensor([[True, True, False, False]]), Sparsity.parse("2:4")).tolist()
    [[0, 0, 0]]
    """
    if sparsity.block is None:
        return bits.pack(mask.to(torch.uint8), 1)
    number = numbers_of_patterns(mask.unflatten(-1, (-1, sparsity.block)), sparsity)
    return bits.pack(number, sparsity.code_bits)


def numbers_of_patterns(
    blocks: Bool[Tensor, "*blocks block"], sparsity: Sparsity
) -> UInt8[Tensor, "*blocks"]:
    """The number of each block's pattern."""
    places = 1 << torch.arange(blocks.shape[-1], device=blocks.device)
    return _numbers(sparsity).to(blocks.device)[(blocks * places).sum(-1)]


def unpack_mask(
    packed: UInt8[Tensor, "*rows bytes"], sparsity: Sparsity, columns: int
) -> Bool[Tensor, "*rows columns"]:
    """The mask that `pack_mask` packed."""
    if sparsity.block is None:
        return bits.unpack(packed, 1, columns).bool()
    number = bits.unpack(packed, sparsity.code_bits, columns // sparsity.block)
    every = patterns(sparsity).to(packed.device)
    return every.index_select(0, number.flatten().int()).view(*number.shape[:-1], columns)


def kept_of(
    values: UInt8[Tensor, "*rows columns"], mask: Bool[Tensor, "*rows columns"]
) -> UInt8[Tensor, "*rows kept"]:
    """What is kept, row by row: as many of each."""
    *rows, _ = values.shape
    return values.flatten().index_select(0, _places(mask)).view(*rows, -1)


def spread(
    kept: UInt8[Tensor, "*rows kept"], mask: Bool[Tensor, "*rows columns"]
) -> UInt8[Tensor, "*rows columns"]:
    """Each kept value where it belongs; zero elsewhere."""
    whole = torch.zeros(mask.numel(), dtype=kept.dtype, device=kept.device)
    return whole.scatter_(0, _places(mask), kept.flatten()).view(mask.shape)


def only_kept(
    row: Float[Tensor, "*rows columns"], mask: Bool[Tensor, "*rows columns"]
) -> Float[Tensor, "*rows columns"]:
    """Zero where the mask says so; may overwrite `row` where no gradient passes through it."""
    if row.requires_grad or row.device.type != "cpu":
        return row * mask
    # Part by part: a mask becomes float32 to be multiplied, which is four times as large.
    at_once = max(1, AT_ONCE // max(1, row.shape[-1]))
    for part, kept in zip(row.split(at_once, -2), mask.split(at_once, -2), strict=True):
        part.mul_(kept)
    return row


def _places(mask: Bool[Tensor, "*rows columns"]) -> Int64[Tensor, "all_kept"]:
    """Where the kept values lie, of all rows one after another."""
    if mask.device.type == "cpu":  # numpy finds them in a twentieth of the time that torch takes
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)


@cache
def patterns(sparsity: Sparsity) -> Bool[Tensor, "patterns block"]:
    """Which of a block are kept, by the number of its pattern."""
    assert sparsity.block is not None
    assert sparsity.kept is not None
    places = torch.tensor(list(combinations(range(sparsity.block), sparsity.kept)))
    found = torch.zeros(len(places), sparsity.block, dtype=torch.bool)
    return found.scatter_(1, places, True)


@cache
def _numbers(sparsity: Sparsity) -> UInt8[Tensor, "masks"]:
    """The pattern's number for every mask of a block, read as a number of its bits."""
    every = patterns(sparsity)
    values = (every * (1 << torch.arange(every.shape[1]))).sum(1)
    numbers = torch.zeros(1 << every.shape[1], dtype=torch.uint8)
    numbers[values] = torch.arange(len(every), dtype=torch.uint8)
    return numbers
