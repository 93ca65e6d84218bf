"""Codes that can be learned: a number behind each, rounded on the way forward, not on the way back.

The straight-through estimator of Bengio et al., 2013, as EfficientQAT has it (Chen et al., 2024).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bitplan.formats import read_number
from bitplan.formats.codes import pack_codes, unpack_codes
from bitplan.packed_weight import PackedWeight
from bitplan.tune.numbers import Number

UNIT = 4.0
"""Of a latent number, in codes, beside that of a scale: how much faster it moves."""

WITHIN = 0.49
"""How far from its code a latent number may begin, in codes."""


class Latent:
    """A packed integer weight whose codes are rounded from numbers that take a gradient.

    Each begins as near to `original` as its code allows, so that those which were nearly rounded
    otherwise are the first to change. `original` is [out, in], or [experts, out, in].
    """

    def __init__(self, weight: PackedWeight, original: Tensor) -> None:
        self.weight, packed = weight, weight.packed()
        self.half = 2.0 ** (weight.scheme.bits - 1)
        scale, offset = self._grid(packed.tensors)
        columns = weight.shape[-1]
        codes = unpack_codes(weight.scheme, packed.tensors["codes"], columns).float()
        start = self._in_groups(codes).sub_(self.half)
        exact = self._in_groups(original.detach().float())
        if offset is not None:
            exact = exact - offset.unsqueeze(-1)
        rest = exact.div(scale.unsqueeze(-1)).sub_(start).clamp_(-WITHIN, WITHIN)
        self.parameter = nn.Parameter(start.add_(rest), requires_grad=False)

    @classmethod
    def fits(cls, weight: nn.Module) -> bool:
        """Whether the codes of a weight can be learned: integers, each weight with one."""
        if not isinstance(weight, PackedWeight):
            return False
        return weight.scheme.is_integer and weight.scheme.sparsity is None

    def number(self, name: str) -> Number:
        """The latent numbers, as they are now, as what is tuned."""
        start = self.parameter.detach().clone()
        unit = start.new_tensor(UNIT).expand_as(start)
        return Number(name=name, parameter=self.parameter, start=start, unit=unit)

    def dense(self) -> Float[Tensor, "*experts out in"]:
        """What is decoded now; differentiable in the latent numbers, scales and offsets."""
        scale, offset = self._grid(self.weight.packed().tensors)
        values = Rounded.apply(self.parameter, scale, offset, self.half)
        return values.flatten(-2)[..., : self.weight.shape[-1]]

    def multiply(self, inputs: Tensor, expert: int | None = None) -> Tensor:
        """As `AbstractWeight.multiply`."""
        self.weight.check(inputs)
        dense = self.dense() if expert is None else self.dense()[expert]
        return nn.functional.linear(inputs, dense.to(inputs.dtype))

    @torch.no_grad()
    def write(self) -> None:
        """Give the weight the codes that its latent numbers round to."""
        codes = self.parameter.round().clamp_(-self.half, self.half - 1).add_(self.half)
        codes = codes.to(torch.uint8).flatten(-2)[..., : self.weight.shape[-1]].contiguous()
        packed = pack_codes(self.weight.scheme, codes)
        self.weight.load_state_dict({**self.weight.packed().tensors, "codes": packed})

    def _grid(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        scheme = self.weight.scheme
        scale = read_number(scheme, tensors, "scale")
        return scale, None if scheme.symmetric else read_number(scheme, tensors, "offset")

    def _in_groups(self, rows: Tensor) -> Float[Tensor, "*out groups group"]:
        group = self.weight.scheme.group_size or rows.shape[-1]
        padded = nn.functional.pad(rows, (0, -rows.shape[-1] % group))
        return padded.unflatten(-1, (-1, group))


@contextmanager
def learnable(latents: list[Latent]) -> Iterator[None]:
    """Within the block products of these weights are with their latent numbers, rounded."""
    with ExitStack() as stack:
        for latent in latents:
            own: dict[str, Any] = vars(latent.weight)
            own["multiply"] = latent.multiply
            stack.callback(own.pop, "multiply")
        yield


class Rounded(torch.autograd.Function):
    """Numbers in steps of a grid -> what their codes stand for."""

    @staticmethod
    def forward(
        ctx: Any,
        latent: Float[Tensor, "*out groups group"],
        scale: Float[Tensor, "*out groups"],
        offset: Float[Tensor, "*out groups"] | None,
        half: float,
    ) -> Float[Tensor, "*out groups group"]:
        """Codes, centred on zero, times scales and offsets."""
        ctx.save_for_backward(latent, scale)
        ctx.half, ctx.has_offset = half, offset is not None
        values = latent.round().clamp_(-half, half - 1).mul_(scale.unsqueeze(-1))
        return values if offset is None else values.add_(offset.unsqueeze(-1))

    # The decorator's result has no keywords, says pyright; torch gives none.
    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """As if nothing were rounded; a code at an end of the range goes back, but no further."""
        [gradient], (latent, scale) = gradients, ctx.saved_tensors
        of_scale = of_offset = None
        if ctx.needs_input_grad[1]:
            codes = latent.round().clamp_(-ctx.half, ctx.half - 1)
            of_scale = codes.mul_(gradient).sum(-1)
        if ctx.has_offset and ctx.needs_input_grad[2]:
            of_offset = gradient.sum(-1)
        if not ctx.needs_input_grad[0]:
            return None, of_scale, of_offset, None
        moved = gradient * scale.unsqueeze(-1)
        moved.masked_fill_((latent > ctx.half - 0.5) & (moved < 0), 0.0)
        moved.masked_fill_((latent < -ctx.half - 0.5) & (moved > 0), 0.0)
        return moved, of_scale, of_offset, None
