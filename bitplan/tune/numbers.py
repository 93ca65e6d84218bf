"""The numbers of a packed model that can be tuned, and how far each of them may be moved."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitplan.formats import read_number
from bitplan.packed_weight import PackedWeight

TUNED = (torch.bfloat16, torch.float16, torch.float32)
"""Scales that are stored as bytes of their own kind have no derivative."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """One tensor of scales or offsets, or a vector of the model, as it was, in float32.

    A step of 1 moves each of its elements by its `unit`: its own scale, or the vector's mean size.
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
    """Scales, offsets, the steps of those that are codes themselves; vectors of norms and biases.

    The vectors are what a layer's scales cannot say: a factor for each of its inputs (compare Li et
    al., 2024, "Norm tweaking"). Of a model without coded weights there are none.
    """
    inside, packed = set(), packed_weights(model)
    for of, weight in packed.items():
        tensors = weight.packed().tensors
        scale = read_number(weight.scheme, tensors, "scale").detach().abs()
        for name, parameter in weight.named_parameters(recurse=False):
            inside.add(parameter)
            if parameter.dtype not in TUNED:
                continue
            start = parameter.detach().to(torch.float32, copy=True)
            is_offset = name == "offset"
            yield Number(
                name=f"{of}.{name}",
                parameter=parameter,
                start=start,
                unit=scale if is_offset else start.abs(),
            )
    for name, parameter in model.named_parameters():
        is_vector = parameter.dim() == 1 and parameter.dtype in TUNED
        if packed and is_vector and parameter not in inside:
            start = parameter.detach().to(torch.float32, copy=True)
            unit = start.abs().mean().expand_as(start)
            yield Number(name=name, parameter=parameter, start=start, unit=unit)
