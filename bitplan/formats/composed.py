"""A weight from its parts: the low-rank term added, and columns put back where they were."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from bitplan.formats import bits
from bitplan.schema import BASE, DOWN, SALIENT, UP


def rest_of(columns: Int[Tensor, "*experts k"], row: int) -> Int[Tensor, "*experts rest"]:
    """The columns of a row that are not salient, in rising order; int32.

    >>> rest_of(torch.tensor([1, 3]), 5).tolist()
    [0, 2, 4]
    """
    is_salient = torch.zeros(*columns.shape[:-1], row, dtype=torch.uint8, device=columns.device)
    is_salient.scatter_(-1, columns.long(), 1)
    order = is_salient.sort(dim=-1, stable=True).indices
    return order[..., : row - columns.shape[-1]].int()


def in_place(
    rest: Float[Tensor, "*out rest"],
    salient: Float[Tensor, "*out k"],
    columns: Int[Tensor, "*experts k"],
) -> Float[Tensor, "*out in"]:
    """Columns of the base and salient ones, each where it belongs."""
    row = rest.shape[-1] + salient.shape[-1]
    order = torch.cat([rest_of(columns, row).long(), columns.long()], dim=-1)
    place = order.argsort(dim=-1)  # of each column among those that are laid side by side
    side_by_side = torch.cat([rest, salient], dim=-1)
    if place.dim() == 1:
        return side_by_side.index_select(-1, place)
    return side_by_side.take_along_dim(place.unsqueeze(-2), dim=-1)


def pack_kept(columns: Int[Tensor, "k"], row: int) -> UInt8[Tensor, "bytes"]:
    """The bits that say which columns of a row are not left out.

    >>> pack_kept(torch.tensor([0, 2, 9]), 10).tolist()
    [5, 2]
    """
    kept = torch.zeros(row, dtype=torch.uint8, device=columns.device)
    return bits.pack(kept.index_fill_(0, columns.long(), 1), 1)


def kept_of_row(
    kept: UInt8[Tensor, "*experts bytes"], row: int, count: int
) -> Int[Tensor, "*experts count"]:
    """The columns of a row that are not left out, `count` of them, in rising order; int32.

    >>> kept_of_row(torch.tensor([5, 2], dtype=torch.uint8), 10, 3).tolist()
    [0, 2, 9]
    """
    order = bits.unpack(kept, 1, row).sort(dim=-1, descending=True, stable=True).indices
    return order[..., :count].int()


def widened(
    narrow: Float[Tensor, "*out kept"], columns: Int[Tensor, "*experts kept"], row: int
) -> Float[Tensor, "*out in"]:
    """Columns that are not left out where they belong; zero elsewhere."""
    wide = narrow.new_zeros(*narrow.shape[:-1], row)
    if columns.dim() == 1:
        return wide.index_copy(-1, columns.long(), narrow)
    return wide.scatter(-1, columns.long().unsqueeze(-2).expand_as(narrow), narrow)


def compose(
    parts: Mapping[str, Tensor],
    columns: Int[Tensor, "*experts k"] | None,
    kept: UInt8[Tensor, "*experts bytes"] | None,
    row: int,
) -> Float[Tensor, "*out in"]:
    """The dense weight of dense parts, by their names in `bitplan.schema.parts`."""
    weight = parts[BASE]
    if columns is not None:
        weight = in_place(weight, parts[SALIENT], columns)
    if UP in parts:
        weight = weight + parts[UP] @ parts[DOWN]
    if kept is None:
        return weight
    return widened(weight, kept_of_row(kept, row, weight.shape[-1]), row)
