"""The numbers of a packed model that can be tuned, and how far each of them may be moved."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitplan.formats import read_number
from bitplan.modules import PackedWeight

TUNED = (torch.bfloat16, torch.float16, torch.float32)
"""Scales that are stored as bytes of their own kind have no derivative."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """One tensor of scales or offsets, as it was, in float32.

    A step of 1 moves each of its elements by its own scale: `unit`.
    """

    name: str
    parameter: nn.Parameter
    start: Tensor
    unit: Tensor

    @torch.no_grad()
    def move(self, steps: Tensor) -> None:
        """Write start + steps * unit, rounded as it is stored."""
        self.parameter.copy_(torch.addcmul(self.start, steps, self.unit))


def packed_weights(model: nn.Module) -> dict[str, PackedWeight]:
    """The coded weights of a model, each once."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, PackedWeight) and not module.scheme.is_float
    }


def numbers_of(model: nn.Module) -> Iterator[Number]:
    """Scales, offsets, and the steps of those that are codes themselves."""
    for of, weight in packed_weights(model).items():
        tensors = weight.packed().tensors
        scale = read_number(weight.scheme, tensors, "scale").detach().abs()
        for name, parameter in weight.named_parameters(recurse=False):
            if parameter.dtype not in TUNED:
                continue
            start = parameter.detach().float()
            is_offset = name == "offset"
            yield Number(
                name=f"{of}.{name}",
                parameter=parameter,
                start=start,
                unit=scale if is_offset else start.abs(),
            )
