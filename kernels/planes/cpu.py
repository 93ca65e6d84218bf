"""Weights of two planes on the CPU: by compiled loops, one plane after the other.

Each plane is a weight of its own to them, of 1-bit codes for 0 and 1, or of ternary ones.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.formats.two_planes import SECOND
from bitplan.kernels.native import weight
from bitplan.kernels.native.job import Term, Terms
from bitplan.kernels.native.trits import TERNARY
from bitplan.schema import Scheme

CODES = "second_codes"
"""Name of the second plane's codes when both lie apart."""


def arrange(tensors: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From canonical tensors to those that the loops read, each plane's codes by themselves."""
    del columns
    first, second = (
        weight.arrange({"codes": codes, "scale": tensors[scale]}, _bits(scheme))
        for codes, scale in zip(tensors["codes"].chunk(2, dim=-1), ("scale", SECOND), strict=True)
    )
    return {**first, CODES: second["codes"], SECOND: second["scale"]}


def restore(arranged: dict[str, Tensor], scheme: Scheme, columns: int) -> dict[str, Tensor]:
    """From the loops' tensors to the canonical ones."""
    first, second = (
        weight.restore(plane, columns, _bits(scheme), scheme.group_size)
        for plane in _planes(arranged)
    )
    codes = torch.cat([first["codes"], second["codes"]], dim=-1)
    return {"codes": codes, "scale": first["scale"], SECOND: second["scale"]}


def linear(
    inputs: Float[Tensor, "*tokens in"], arranged: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    return _added(arranged, scheme, lambda plane, of: weight.multiply(inputs, plane, **of))


def few(
    arranged: dict[str, Tensor], scheme: Scheme, columns: int, count: int, dtype: torch.dtype
) -> Terms | None:
    """The product with a few vectors, for later: see `native.weight.few`."""
    terms: list[Term] = []
    for plane in _planes(arranged):
        found = weight.few(plane, columns, count, dtype, **_of(scheme))
        if found is None:
            return None
        terms += found
    return terms


def linear_back(
    gradient: Float[Tensor, "*tokens out"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
) -> Float[Tensor, "*tokens in"]:
    """Product with the weight itself: the gradient at the inputs of `linear`."""
    return _added(
        arranged, scheme, lambda plane, of: weight.multiply_back(gradient, plane, columns, **of)
    )


def lookup(
    tokens: Int[Tensor, "*tokens"],
    arranged: dict[str, Tensor],
    scheme: Scheme,
    columns: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*tokens hidden"]:
    """Rows of an embedding; only those asked for are decoded."""
    return _added(
        arranged,
        scheme,
        lambda plane, of: weight.chosen_rows(tokens, plane, columns, torch.float32, **of),
    ).to(dtype)


def _planes(arranged: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors of each plane, by the names that the loops know."""
    return [
        {"codes": arranged["codes"], "scale": arranged["scale"]},
        {"codes": arranged[CODES], "scale": arranged[SECOND]},
    ]


def _added(
    arranged: dict[str, Tensor], scheme: Scheme, product: Callable[..., Tensor]
) -> Float[Tensor, "..."]:
    of = _of(scheme)
    first, second = (product(plane, of) for plane in _planes(arranged))
    return first.add_(second)


def _of(scheme: Scheme) -> dict[str, Any]:
    """What the loops are told of each plane."""
    return {"bits": _bits(scheme), "group": scheme.group_size}


def _bits(scheme: Scheme) -> int:
    return TERNARY if scheme.family.is_ternary else 1
