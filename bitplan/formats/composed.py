"""A weight from its parts: columns put back where they were, and the low-rank term added."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

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


def compose(
    parts: Mapping[str, Tensor], columns: Int[Tensor, "*experts k"] | None
) -> Float[Tensor, "*out in"]:
    """The dense weight of dense parts, by their names in `bitplan.schema.parts`."""
    weight = parts[BASE]
    if columns is not None:
        weight = in_place(weight, parts[SALIENT], columns)
    return weight + parts[UP] @ parts[DOWN] if UP in parts else weight
