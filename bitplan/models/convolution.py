"""A convolution as a matrix product: the patches that its weight, as a matrix, multiplies."""

from math import prod

from jaxtyping import Float
from torch import Tensor, nn


def patches(
    inputs: Float[Tensor, "batch in *size"], module: nn.Conv1d | nn.Conv2d
) -> Float[Tensor, "batch *to patch"]:
    """What the weight, flattened to [out, in x window], is multiplied by at each place.

    For a convolution of one group that pads with zeros.
    """
    inputs = nn.functional.pad(inputs, module._reversed_padding_repeated_twice)
    dimensions = len(module.kernel_size)
    sizes = zip(module.kernel_size, module.stride, module.dilation, strict=True)
    first = inputs.dim() - dimensions
    for axis, (kernel, stride, dilation) in enumerate(sizes, first):
        windows = inputs.unfold(axis, (kernel - 1) * dilation + 1, stride)
        inputs = windows[..., ::dilation]
    # [batch, in, *to, *window] -> [batch, *to, in x window]
    inputs = inputs.movedim(first - 1, first - 1 + dimensions)
    patch = prod(inputs.shape[-dimensions - 1 :])
    return inputs.reshape(*inputs.shape[: -dimensions - 1], patch)
