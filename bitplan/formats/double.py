"""Scales of groups that are codes themselves: double quantization (QLoRA, section 3).

Of the scales of a row, every 256 share a step, a bfloat16 number; a scale is a byte times its step.
An offset is a byte less 128, times a step of its own, and so is the scale of a second plane.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

SHARED = 256
"""Scales of a row that share a step."""

MOST = 255
CENTRE = 128
CENTRES = {"scale": 0, "offset": CENTRE, "second": CENTRE}
"""What is taken from a code, by tensor."""

STEP = "_step"
"""What follows the name of a tensor in that of its steps."""


def step_for(reach: Float[Tensor, "*rows"], most: int) -> Float[Tensor, "*rows"]:
    """The step with which the code `most` tells the largest number; 1 for zeros.

    It is rounded down to bfloat16, but for what sums in float32 may lack: so the largest always has
    that code, and a weight that was encoded once is encoded to itself.
    """
    step = (
        (reach * ((1 + 2**-20) / most)).view(torch.int32).bitwise_and(~0xFFFF).view(torch.float32)
    )
    return torch.where(step > 0, step, 1.0)


def round_scale(
    scale: Float[Tensor, "*rows"], step: Float[Tensor, "*rows"], *, least: int
) -> Float[Tensor, "*rows"]:
    """The nearest scale there is, of a code of `least` or more."""
    return (scale / step).round_().clamp_(least, MOST).mul_(step)


def round_offset(
    offset: Float[Tensor, "*rows"], step: Float[Tensor, "*rows"]
) -> Float[Tensor, "*rows"]:
    """The nearest offset there is; the code 0 is not used."""
    return (offset / step).round_().clamp_(1 - CENTRE, CENTRE - 1).mul_(step)


def store(
    numbers: Float[Tensor, "*rows groups"], steps: Float[Tensor, "*rows blocks"], *, centre: int
) -> UInt8[Tensor, "*rows groups"]:
    """Codes of rounded numbers, above their centre."""
    return (numbers / spread(steps, numbers.shape[-1])).round_().add_(centre).to(torch.uint8)


def read(
    codes: UInt8[Tensor, "*rows groups"], steps: Float[Tensor, "*rows blocks"], *, centre: int
) -> Float[Tensor, "*rows groups"]:
    """What `store` stored, in float32. Differentiable in the steps."""
    return (codes.float() - centre) * spread(steps.float(), codes.shape[-1])


def spread(steps: Float[Tensor, "*rows blocks"], groups: int) -> Float[Tensor, "*rows groups"]:
    """The step of each group."""
    if steps.shape[-1] == 1:
        return steps
    return steps.repeat_interleave(SHARED, dim=-1)[..., :groups]
