"""The operator to torch for a product with experts: `bitplan::packed_experts`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.kernels.gpu.operator import beside_of_all, beside_of_each
from bitplan.schema import Scheme


def grouped(
    inputs: Float[Tensor, "tokens in"],
    ends: Int[Tensor, "experts"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
) -> Float[Tensor, "tokens out"]:
    """Product of tokens that are sorted by expert, each with the transposed weight of its own.

    `ends` says where each one's end, and what comes after the last is not written, or it is a sum
    of what was not.
    """
    return grouped_of_several(inputs, ends, [], [arranged], [scheme])


def grouped_of_several(
    inputs: Float[Tensor, "tokens in"],
    ends: Int[Tensor, "experts"],
    members: Sequence[Int[Tensor, "of_stack"]],
    arranged: Sequence[dict[str, Tensor]],
    schemes: Sequence[Scheme],
) -> Float[Tensor, "tokens out"]:
    """As `grouped`, with experts of several schemes: a stack of each, and one launch or more.

    Args:
        inputs: sorted by expert, over the experts of all stacks.
        ends: where each expert's tokens end; int32.
        members: of each stack the numbers of its experts, ascending. Each expert is in one stack,
            and each stack has some. Of one that has all, none are needed.
        arranged: what each stack holds.
        schemes: of each stack.
    """
    codes, grids = ([held[name] for held in arranged] for name in ("codes", "grid"))
    beside, names = beside_of_all(arranged, schemes), ",".join(map(str, schemes))
    given = (inputs, ends, members, codes, grids, beside, names)
    return torch.ops.bitplan.packed_experts(*given)


@torch.library.custom_op("bitplan::packed_experts", mutates_args=())
def packed_experts(
    inputs: Tensor,
    ends: Tensor,
    members: Sequence[Tensor],
    codes: Sequence[Tensor],
    grids: Sequence[Tensor],
    beside: Sequence[Tensor],
    schemes: str,
) -> Tensor:
    """See `grouped_of_several`; the names of schemes have commas between them."""
    from bitplan.kernels.gpu.launch_experts import Stack, multiply_experts

    parsed = [Scheme.parse(name) for name in schemes.split(",")]
    of_each = zip(
        codes, grids, beside_of_each(beside, parsed), parsed, members or [None], strict=True
    )
    stacks = [
        Stack(codes=own, grid=grid, beside=rest, scheme=scheme, members=numbers)
        for own, grid, rest, scheme, numbers in of_each
    ]
    return multiply_experts(inputs, ends, stacks)


@packed_experts.register_fake
def _(
    inputs: Tensor,
    ends: Tensor,
    members: Sequence[Tensor],
    codes: Sequence[Tensor],
    grids: Sequence[Tensor],
    beside: Sequence[Tensor],
    schemes: str,
) -> Tensor:
    del ends, members, codes, beside, schemes
    return inputs.new_empty(len(inputs), grids[0].shape[2])
