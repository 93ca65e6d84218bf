"""Operators to torch, that no compiled model is interrupted: `bitplan::packed_linear` and others.

Only their first calls need Triton.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.errors import InputError
from bitplan.kernels.gpu.grids import all_beside
from bitplan.kernels.gpu.kept import MOST_OF_STREAM, kept_of
from bitplan.kernels.gpu.layout import CELL, restore, room_of, words_of
from bitplan.schema import GROUP_SIZES, Scheme

Reference = Callable[[Tensor, dict[str, Tensor], Scheme], Tensor]
Restore = Callable[[dict[str, Tensor], Scheme, int], dict[str, Tensor]]


def unfit(scheme: Scheme, columns: int) -> str | None:
    """Why there is no kernel for a coded scheme and rows of so many columns, or None.

    >>> unfit(Scheme.parse("int3g64"), 100)
    'the Triton kernels want columns in 32s'
    """
    if reason := _unfit_sparse(scheme, columns):
        return reason
    if scheme.group_size not in (None, *GROUP_SIZES):
        return f"the Triton kernels take groups of {', '.join(map(str, GROUP_SIZES))}"
    if columns % CELL:
        return f"the Triton kernels want columns in {CELL}s"
    if find_spec("triton") is None:
        return "Triton is not installed"
    return None


def _unfit_sparse(scheme: Scheme, columns: int) -> str | None:
    sparsity = scheme.sparsity
    if sparsity is None:
        return None
    if scheme.family.planes > 1:
        return "no Triton kernel leaves weights out of two planes"
    if scheme.family.is_ternary:
        return "no Triton kernel leaves weights out where five codes share a byte"
    if sparsity.block is None:
        if columns > MOST_OF_STREAM:
            return f"no Triton kernel counts the kept codes of more than {MOST_OF_STREAM:,} columns"
        return None
    if scheme.group_size and scheme.group_size < 8 * sparsity.block:
        return (
            f"the Triton kernels take {sparsity} in groups of {8 * sparsity.block} and more, and "
            "whole rows"
        )
    if kept_of(scheme).words == 0:
        return "the Triton kernels want 32 bits of 32 weights that some are left out of"
    return None


def linear(
    inputs: Float[Tensor, "*tokens in"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    reference: Reference,
    restore: Restore = restore,
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype.

    Where a gradient is wanted, of the inputs or of the grid, the reference decodes and multiplies.
    """
    codes, grid, columns = arranged["codes"], arranged["grid"], inputs.shape[-1]
    rows = grid.shape[1]
    if len(codes) != rows * words_of(scheme, columns):
        held, at_most = room_of(scheme, len(codes) // rows), scheme.family.is_ternary
        raise InputError(
            f"The inputs have {columns} features, but the weight takes "
            f"{'at most ' if at_most else ''}{held}. Give it what the dense layer was given."
        )
    tensors = (inputs, *arranged.values())
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return reference(inputs, restore(arranged, scheme, columns), scheme)
    beside = [arranged[name] for name in all_beside(scheme)]
    return torch.ops.bitplan.packed_linear(inputs, codes, grid, beside, str(scheme))


@torch.library.custom_op("bitplan::packed_linear", mutates_args=())
def packed_linear(
    inputs: Tensor, codes: Tensor, grid: Tensor, beside: Sequence[Tensor], scheme: str
) -> Tensor:
    """See `linear`; torch's operators take a scheme by its name alone."""
    from bitplan.kernels.gpu.launch import multiply

    flat = inputs.reshape(inputs.shape[:-1].numel(), inputs.shape[-1])
    output = multiply(flat, codes, grid, beside, Scheme.parse(scheme))
    return output.reshape(*inputs.shape[:-1], grid.shape[1])


@packed_linear.register_fake
def _(inputs: Tensor, codes: Tensor, grid: Tensor, beside: Sequence[Tensor], scheme: str) -> Tensor:
    del codes, beside, scheme
    return inputs.new_empty(*inputs.shape[:-1], grid.shape[1])


def linears(
    inputs: Float[Tensor, "*tokens in"],
    arranged: Sequence[dict[str, Tensor]],
    schemes: Sequence[Scheme],
) -> list[Float[Tensor, "*tokens out"]]:
    """Products with several weights, each as `linear` makes it where no gradient is wanted.

    In one launch where `together.one_launch` says so, and else one after the other.
    """
    codes, grids = ([held[name] for held in arranged] for name in ("codes", "grid"))
    beside = beside_of_all(arranged, schemes)
    names = ",".join(map(str, schemes))
    return torch.ops.bitplan.packed_linears(inputs, codes, grids, beside, names)


def beside_of_all(arranged: Sequence[dict[str, Tensor]], schemes: Sequence[Scheme]) -> list[Tensor]:
    """What weights have beside codes and grid, one weight after another."""
    both = zip(arranged, schemes, strict=True)
    return [held[name] for held, scheme in both for name in all_beside(scheme)]


def beside_of_each(beside: Sequence[Tensor], schemes: Sequence[Scheme]) -> list[list[Tensor]]:
    """Of each weight its own again."""
    rest = iter(beside)
    return [[next(rest) for _ in all_beside(scheme)] for scheme in schemes]


@torch.library.custom_op("bitplan::packed_linears", mutates_args=())
def packed_linears(
    inputs: Tensor,
    codes: Sequence[Tensor],
    grids: Sequence[Tensor],
    beside: Sequence[Tensor],
    schemes: str,
) -> list[Tensor]:
    """See `linears`; the names of schemes have commas between them."""
    from bitplan.kernels.gpu.launch_several import multiply_several

    parsed = [Scheme.parse(name) for name in schemes.split(",")]
    of_each = beside_of_each(beside, parsed)
    flat = inputs.reshape(inputs.shape[:-1].numel(), inputs.shape[-1])
    outputs = multiply_several(flat, codes, grids, of_each, parsed)
    return [output.reshape(*inputs.shape[:-1], output.shape[-1]) for output in outputs]


@packed_linears.register_fake
def _(
    inputs: Tensor,
    codes: Sequence[Tensor],
    grids: Sequence[Tensor],
    beside: Sequence[Tensor],
    schemes: str,
) -> list[Tensor]:
    del codes, beside, schemes
    return [inputs.new_empty(*inputs.shape[:-1], grid.shape[1]) for grid in grids]


def lookup(
    tokens: Int[Tensor, "*tokens"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens columns"]:
    """Rows of an embedding; only those asked for are decoded."""
    beside = [arranged[name] for name in all_beside(scheme)]
    codes, grid = arranged["codes"], arranged["grid"]
    return torch.ops.bitplan.packed_rows(tokens, codes, grid, beside, str(scheme), columns, dtype)


@torch.library.custom_op("bitplan::packed_rows", mutates_args=())
def packed_rows(
    tokens: Tensor,
    codes: Tensor,
    grid: Tensor,
    beside: Sequence[Tensor],
    scheme: str,
    columns: int,
    dtype: torch.dtype,
) -> Tensor:
    """See `lookup`."""
    from bitplan.kernels.gpu.launch import take

    rows = take(tokens.flatten(), codes, grid, beside, Scheme.parse(scheme), columns, dtype)
    return rows.reshape(*tokens.shape, columns)


@packed_rows.register_fake
def _(
    tokens: Tensor,
    codes: Tensor,
    grid: Tensor,
    beside: Sequence[Tensor],
    scheme: str,
    columns: int,
    dtype: torch.dtype,
) -> Tensor:
    del grid, beside, scheme
    return codes.new_empty(*tokens.shape, columns, dtype=dtype)
