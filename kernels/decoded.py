"""Products with a weight that is decoded as it is used, some rows at a time.

Neither way keeps the dense weight: what autograd would save for the way back is decoded again there
(compare Chen et al., 2016, "Training deep nets with sublinear memory cost"). So a compressed model
is trained, with LoRA or by its own scales, in the memory that it was promised.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from bitplan.formats import MATRIX_SCALE
from bitplan.formats.decode import decode
from bitplan.runtimes import ROWS_AT_ONCE
from bitplan.schema import Scheme

Tensors = Mapping[str, Tensor]


def linear(
    inputs: Float[Tensor, "*tokens in"], tensors: Tensors, scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in (inputs, *tensors.values())):
        return _Linear.apply(inputs, scheme, tuple(tensors), *tensors.values())
    return _forward(inputs, tensors, scheme)


def linear_back(
    gradient: Float[Tensor, "*tokens out"],
    tensors: Tensors,
    scheme: Scheme,
    columns: int,
) -> Float[Tensor, "*tokens in"]:
    """Product with the weight itself: the gradient at the inputs of `linear`."""
    products = [
        gradient[..., some] @ decode(scheme, columns, part, gradient.dtype)
        for some, part in _parts(tensors)
    ]
    return products[0] if len(products) == 1 else torch.stack(products).sum(0)


def lookup(
    tokens: Int[Tensor, "*tokens"],
    tensors: Tensors,
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens hidden"]:
    """Rows of an embedding; only those asked for are decoded."""
    # Not by indexing: that takes a negative token for a row from the end.
    rows = {
        name: tensor if name == MATRIX_SCALE else tensor.index_select(0, tokens.flatten())
        for name, tensor in tensors.items()
    }
    return decode(scheme, columns, rows, dtype).reshape(*tokens.shape, columns)


def _forward(inputs: Tensor, tensors: Tensors, scheme: Scheme) -> Tensor:
    parts = [
        torch.nn.functional.linear(inputs, decode(scheme, inputs.shape[-1], part, inputs.dtype))
        for _, part in _parts(tensors)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _parts(tensors: Tensors) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    rows = len(tensors["codes"])
    for start in range(0, rows, ROWS_AT_ONCE):
        some = slice(start, min(start + ROWS_AT_ONCE, rows))
        yield some, {n: t if n == MATRIX_SCALE else t[some] for n, t in tensors.items()}


class _Linear(torch.autograd.Function):
    """Differentiable in the inputs, and in what of the weight is a floating-point number."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        scheme: Scheme,
        names: tuple[str, ...],
        *values: Tensor,
    ) -> Tensor:
        """See `linear`."""
        ctx.scheme, ctx.names = scheme, names
        ctx.columns = inputs.shape[-1]
        # The inputs are needed only where the weight itself is tuned.
        ctx.save_for_backward(inputs if any(ctx.needs_input_grad[3:]) else None, *values)
        return _forward(inputs, dict(zip(names, values, strict=True)), scheme)

    # The decorator's result has no keywords, says pyright; torch gives none.
    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Decode each part again."""
        [gradient] = gradients
        inputs, *values = ctx.saved_tensors
        tensors = dict(zip(ctx.names, values, strict=True))
        tuned = [name for name, n in zip(ctx.names, ctx.needs_input_grad[3:], strict=True) if n]
        of_inputs = None
        of_weight: dict[str, list[Tensor]] = {name: [] for name in tuned}
        for some, part in _parts(tensors):
            for name in tuned:
                part[name] = part[name].detach().requires_grad_()
            with torch.enable_grad():
                dense = decode(ctx.scheme, ctx.columns, part, gradient.dtype)
            piece = gradient[..., some]
            if ctx.needs_input_grad[0]:
                product = piece @ dense.detach()
                of_inputs = product if of_inputs is None else of_inputs.add_(product)
            if tuned:
                flat = inputs.reshape(-1, ctx.columns).to(gradient.dtype)
                slope = piece.reshape(-1, piece.shape[-1]).t() @ flat
                leaves = [part[name] for name in tuned]
                for name, found in zip(
                    tuned, torch.autograd.grad(dense, leaves, slope), strict=True
                ):
                    of_weight[name].append(found)
        joined = {
            name: torch.stack(found).sum(0) if name == MATRIX_SCALE else torch.cat(found)
            for name, found in of_weight.items()
        }
        return of_inputs, None, None, *(joined.get(name) for name in ctx.names)
