"""Products and lookups as operators of torch, for `torch.compile` and `torch.export`.

A compiler cannot look into compiled loops. As operators they are calls that it leaves as they are
and whose result's shape it knows; what stands around them it fuses. A model that is not compiled
needs none of this: its products are called without the way through torch's dispatcher.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.kernels.choose import arranged_for, reference_of
from bitplan.schema import Scheme

_HELD = "Tensor[] held, str names, str scheme, str kernel"
"""A weight: its tensors, their names with commas between them, and the implementation's name."""

_library = torch.library.Library("bitplan", "FRAGMENT")
for _signature in (
    f"linear(Tensor inputs, {_HELD}, int rows) -> Tensor",
    f"linear_back(Tensor gradient, {_HELD}, int columns) -> Tensor",
    f"lookup(Tensor tokens, {_HELD}, int columns, ScalarType dtype) -> Tensor",
):
    _library.define(_signature, tags=(torch.Tag.needs_fixed_stride_order,))


def linear(
    inputs: Float[Tensor, "*tokens in"],
    held: dict[str, Tensor],
    scheme: str,
    kernel: str,
    rows: int,
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, differentiable in the inputs.

    Args:
        inputs: of the layer.
        held: the weight's tensors, laid out for `kernel`.
        scheme: its name.
        kernel: the implementation, of those that `choose` names.
        rows: of the weight.
    """
    names = ",".join(held)
    return torch.ops.bitplan.linear(inputs, list(held.values()), names, scheme, kernel, rows)


def lookup(
    tokens: Int[Tensor, "*tokens"],
    held: dict[str, Tensor],
    scheme: str,
    kernel: str,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens hidden"]:
    """Rows of the weight; see `linear`."""
    names, tensors = ",".join(held), list(held.values())
    return torch.ops.bitplan.lookup(tokens, tensors, names, scheme, kernel, columns, dtype)


def _linear(
    inputs: Tensor, held: list[Tensor], names: str, scheme: str, kernel: str, rows: int
) -> Tensor:
    del rows
    return _module(kernel, scheme).linear(inputs, _named(names, held), _parsed(scheme))


def _linear_back(
    gradient: Tensor, held: list[Tensor], names: str, scheme: str, kernel: str, columns: int
) -> Tensor:
    module, tensors = _module(kernel, scheme), _named(names, held)
    if not hasattr(module, "linear_back"):
        tensors = module.restore(tensors, _parsed(scheme), columns)
        module = reference_of(_parsed(scheme))
    return module.linear_back(gradient, tensors, _parsed(scheme), columns)


def _lookup(
    tokens: Tensor,
    held: list[Tensor],
    names: str,
    scheme: str,
    kernel: str,
    columns: int,
    dtype: torch.dtype,
) -> Tensor:
    tensors = _named(names, held)
    return _module(kernel, scheme).lookup(tokens, tensors, _parsed(scheme), columns, dtype)


def _linear_shape(
    inputs: Tensor, held: list[Tensor], names: str, scheme: str, kernel: str, rows: int
) -> Tensor:
    return inputs.new_empty(*inputs.shape[:-1], rows)


def _linear_back_shape(
    gradient: Tensor, held: list[Tensor], names: str, scheme: str, kernel: str, columns: int
) -> Tensor:
    return gradient.new_empty(*gradient.shape[:-1], columns)


def _lookup_shape(
    tokens: Tensor,
    held: list[Tensor],
    names: str,
    scheme: str,
    kernel: str,
    columns: int,
    dtype: torch.dtype,
) -> Tensor:
    return tokens.new_empty(*tokens.shape, columns, dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the packed weight for the way back, and nothing dense."""
    vectors, held, ctx.names, ctx.scheme, ctx.kernel, _ = inputs
    ctx.columns, ctx.dtype = vectors.shape[-1], vectors.dtype
    ctx.save_for_backward(*held)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    held = list(ctx.saved_tensors)
    found = torch.ops.bitplan.linear_back(
        gradient, held, ctx.names, ctx.scheme, ctx.kernel, ctx.columns
    )
    return found.to(ctx.dtype), [None] * len(held), None, None, None, None


def _module(kernel: str, scheme: str) -> Any:
    if kernel == "reference":
        return reference_of(_parsed(scheme))
    return arranged_for(_parsed(scheme), kernel)


def _named(names: str, held: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip(names.split(","), held, strict=True))


_parsed = cache(Scheme.parse)

for _name, _run, _shape in (
    ("linear", _linear, _linear_shape),
    ("linear_back", _linear_back, _linear_back_shape),
    ("lookup", _lookup, _lookup_shape),
):
    _library.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"bitplan::{_name}", _shape, lib=_library)
torch.library.register_autograd("bitplan::linear", _backward, setup_context=_keep, lib=_library)
