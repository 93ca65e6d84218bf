"""Changes of a model's channels that are undone in the weights around them: the outputs stay.

With an invertible T, y = W x is (W T^-1) (T x), and what makes x makes T x when its own rows are
changed. Here T = R' S^-1, with S a scale for each channel (AWQ, Lin et al., 2023; also the weights
of a norm) and R a rotation (QuaRot, Ashkboos et al., 2024). A reader's weight W becomes W S R, that
of what makes the channels R' S^-1 W, and the covariance H of the channels R' S^-1 H S^-1 R. A shift
d (OmniQuant, Shao et al., 2024) is taken off x before that, in the bias of what makes it, and W d
is added to that of the reader.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.models.hadamard import Rotation
from bitplan.models.neighbours import (
    Group,
    Neighbours,
    Stream,
    bias_of,
    is_constant,
    is_tied,
    rows_of,
)

ROWS_AT_ONCE = 1024
"""Of a weight, that are changed at a time in float32: bounds memory at large vocabularies."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """T = R' S^-1 of some channels less a shift; without a scale S is I, without a rotation R."""

    scale: Float[Tensor, "channels"] | None = None
    shift: Float[Tensor, "channels"] | None = None
    rotation: Rotation | None = None

    def reader(self, weight: Float[Tensor, "out channels"]) -> Float[Tensor, "out channels"]:
        """W S R, of what reads the channels."""
        changed = weight if self.scale is None else weight * self.scale
        return changed if self.rotation is None else self.rotation.turn(changed)

    def maker(self, weight: Float[Tensor, "*in channels"]) -> Float[Tensor, "*in channels"]:
        """W' S^-1 R, the transpose of what makes the channels."""
        changed = weight if self.scale is None else weight / self.scale
        return changed if self.rotation is None else self.rotation.turn(changed)

    def maker_bias(self, bias: Float[Tensor, "channels"]) -> Float[Tensor, "channels"]:
        """R' S^-1 (b - d), of what makes the channels."""
        return self.maker(bias if self.shift is None else bias - self.shift)

    def reader_bias(
        self, bias: Float[Tensor, "out"], weight: Float[Tensor, "out channels"]
    ) -> Float[Tensor, "out"]:
        """b + W d, of what reads the channels; `weight` is W as it was."""
        return bias if self.shift is None else bias + weight @ self.shift

    def spread(self, copies: int, head: int | None) -> "Change":
        """For readers that read each head of `head` channels several times."""
        return replace(
            self,
            scale=None if self.scale is None else spread(self.scale, copies, head),
            shift=None if self.shift is None else spread(self.shift, copies, head),
        )

    def covariance(
        self, matrix: Float[Tensor, "channels channels"]
    ) -> Float[Tensor, "channels channels"]:
        """H of the changed channels, where none is shifted."""
        return self.maker(self.maker(matrix).T).T


@torch.no_grad()
def change_group(model: nn.Module, group: Group, change: Change) -> None:
    """Change the channels between a group's maker and its readers, in place.

    Scale and shift have a number for each channel of the maker that is read. Only groups that
    `takes_shift` names can be shifted.
    """
    _change_maker(model, group.maker, change, group.rows or slice(None))
    read = change.spread(group.copies, group.head)
    for path in group.readers:
        rows, bias = rows_of(model, path), bias_of(model, path)
        if bias is not None and read.shift is not None:
            _rewrite(bias, partial(read.reader_bias, weight=_wide(rows)))
        _rewrite(rows, read.reader)


def spread(each: Float[Tensor, "made"], copies: int, head: int | None) -> Tensor:
    """Numbers for the channels of readers that read each head of `head` channels several times."""
    if copies == 1:
        return each
    assert head is not None
    return each.reshape(-1, head).repeat_interleave(copies, 0).flatten()


def rotate_heads(model: nn.Module, neighbours: Neighbours, rotation: Rotation) -> None:
    """Rotate the channels of each head between values and output (R2 of SpinQuant).

    The same rotation for every head, of queries or of keys and values.
    """
    for group in neighbours.groups:
        if group.head is not None:
            change_group(model, group, Change(rotation=rotation))


@torch.no_grad()
def rotate_stream(model: nn.Module, stream: Stream, rotation: Rotation) -> None:
    """Rotate the residual stream (R1 of SpinQuant), with the weights of its norms in its readers.

    Raises `ModelError` where the last norm's weight would have to go into a head that is tied to
    the embedding: see `why_no_stream`.
    """
    if reason := why_no_stream(model, stream):
        raise ModelError(f"The stream is not rotated: {reason}.")
    turned = Change(rotation=rotation)
    for norm, readers in stream.norms.items():
        _into_readers(model, norm, readers, rotation)
    _rewrite(rows_of(model, stream.embedding), turned.maker)
    if not is_tied(model, stream):
        _into_readers(model, stream.last_norm, (stream.head,), rotation)
    for path in stream.writers:
        _change_maker(model, path, turned)


def why_no_stream(model: nn.Module, stream: Stream | None) -> str:
    """Why the residual stream cannot be rotated within the weights; empty where it can."""
    if stream is None:
        return "its norms take a mean off, which a rotated stream has elsewhere"
    if is_tied(model, stream) and not is_constant(rows_of(model, stream.last_norm)):
        return (
            "head and embedding are one weight, and the last norm scales channels one by one: the "
            "head would need these scales, and the embedding must not have them"
        )
    return ""


def _change_maker(
    model: nn.Module, path: str, change: Change, outputs: slice = slice(None)
) -> None:
    rows, bias = rows_of(model, path), bias_of(model, path)
    _rewrite(rows[outputs].T if rows.dim() > 1 else rows[outputs], change.maker)
    if bias is not None:
        _rewrite(bias[outputs], change.maker_bias)


def _into_readers(
    model: nn.Module, norm: str, readers: tuple[str, ...], rotation: Rotation
) -> None:
    """Put the weight of a norm into the linears that read it, and rotate what they read."""
    weight = rows_of(model, norm)
    change = Change(scale=_wide(weight).clone(), rotation=rotation)
    for path in readers:
        _rewrite(rows_of(model, path), change.reader)
    weight.fill_(1.0)


def _rewrite(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """Change rows in place, computed in float32 or wider."""
    for part in tensor.split(ROWS_AT_ONCE) if tensor.dim() > 1 else (tensor,):
        part.copy_(change(_wide(part)))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
