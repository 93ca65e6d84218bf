"""Scales of the channels between two neighbours, by AWQ's search (Lin et al., 2023).

Where the inputs of a channel are large, an error in its weights costs more. Multiplied by a scale s
before it is rounded, and its inputs divided by it, a channel's error is about s times smaller
beside that of the others in its group. With a the size of the inputs, s = a^r, and r is searched on
a grid: the one with the least

    sum over the readers of tr(dW H dW'),

the loss-aware error of their weights W S rounded to nearest, where H is the gradient-weighted
covariance, here that of the scaled channels. The root of its diagonal is a.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitplan.compress.plane import floored
from bitplan.compress.render import render
from bitplan.models import Change, find_neighbours, rows_of, spread
from bitplan.progress import Progress, quiet, track
from bitplan.schema import Scheme

SEARCHED = Scheme.parse("int3g64")
"""What weights are rounded to while scales are searched, or learned: the widths of a plan are found
later, and at 3 bits errors are large enough to tell, and small enough to add up."""

EXPONENTS = tuple(step / 10 for step in range(11))
"""Tried for r; the first leaves the channels alone."""

ROWS = 256
"""Of a weight, that are rounded to judge an exponent: rows are rounded one by one, so some tell."""


Covariance = Callable[[str], Tensor]
"""Path of a linear -> H of its inputs [in, in], up to one factor for the whole model."""


def search_scales(
    model: nn.Module,
    covariance: Covariance,
    *,
    scheme: Scheme = SEARCHED,
    progress: Progress = quiet,
) -> dict[str, Tensor]:
    """The scales of a model's channels, by the path of what makes them; the model stays as it is.

    Raises `ModelError` where it is not known what makes the inputs of the model's linears.
    """
    found = {}
    for group in track(find_neighbours(model).groups, "scales", progress):
        found[group.maker] = search_scale(
            [rows_of(model, path) for path in group.readers],
            [covariance(path) for path in group.readers],
            scheme,
            copies=group.copies,
            head=group.head,
        )
    return found


@torch.no_grad()
def search_scale(
    weights: Sequence[Float[Tensor, "out channels"]],
    covariances: Sequence[Float[Tensor, "channels channels"]],
    scheme: Scheme,
    *,
    copies: int = 1,
    head: int | None = None,
) -> Float[Tensor, "made"]:
    """The scale of each channel that some linears share, of geometric mean 1.

    Args:
        weights: of the readers.
        covariances: H of each, up to one factor.
        scheme: that they are rounded in.
        copies: heads of the readers that read one of the maker's, and share its scales.
        head: channels of a head; needed where there are copies.
    """
    importance = torch.stack([floored(matrix.diagonal()) for matrix in covariances]).sum(0)
    if copies > 1:
        assert head is not None
        importance = importance.reshape(-1, copies, head).mean(1).flatten()
    size = importance.double().log() / 2
    size -= size.mean()
    some = [weight[:: -(-len(weight) // ROWS)].float() for weight in weights]
    scales = [torch.exp(exponent * size).float() for exponent in EXPONENTS]

    def loss(scale: Tensor) -> float:
        change = Change(scale=spread(scale, copies, head))
        pairs = zip(some, covariances, strict=True)
        return sum(_loss(change, weight, matrix, scheme) for weight, matrix in pairs)

    return min(scales, key=loss)


def _loss(change: Change, weight: Tensor, covariance: Tensor, scheme: Scheme) -> float:
    """tr(dW H dW') of the changed weight in the changed channels."""
    changed = change.reader(weight)
    error = render(changed, [scheme], quantizer="rtn")[scheme].decode().sub_(changed)
    return (error @ change.covariance(covariance)).mul_(error).sum(dtype=torch.float64).item()
