"""The way back through a product with an arranged weight: rows are decoded again for it."""

from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from bitplan.schema import Scheme


def differentiable(
    inputs: Float[Tensor, "*tokens in"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    kernel: ModuleType,
) -> Float[Tensor, "*tokens out"]:
    """`kernel.linear`, differentiable in the inputs. Nothing dense is kept."""
    return _Linear.apply(inputs, scheme, kernel, tuple(arranged), *arranged.values())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        scheme: Scheme,
        kernel: ModuleType,
        names: tuple[str, ...],
        *values: Tensor,
    ) -> Tensor:
        """See `differentiable`."""
        ctx.scheme, ctx.kernel, ctx.names = scheme, kernel, names
        ctx.columns, ctx.dtype = inputs.shape[-1], inputs.dtype
        ctx.save_for_backward(*values)
        return kernel.linear(inputs, dict(zip(names, values, strict=True)), scheme)

    # The decorator's result has no keywords, says pyright; torch gives none.
    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Decode again, some rows at a time."""
        [gradient] = gradients
        arranged = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        of_inputs = ctx.kernel.linear_back(gradient, arranged, ctx.scheme, ctx.columns)
        return of_inputs.to(ctx.dtype), None, None, None, *(None for _ in ctx.names)
