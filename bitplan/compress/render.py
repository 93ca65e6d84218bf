"""Render a weight in every scheme that is asked for, with one quantizer."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.curvature import Curvature
from bitplan.compress.quantizers.admm import admm
from bitplan.compress.quantizers.dsnot import dsnot
from bitplan.compress.quantizers.gptq import gptq
from bitplan.compress.quantizers.hqq import hqq
from bitplan.compress.quantizers.quantease import quantease
from bitplan.compress.quantizers.rtn import clip, rtn
from bitplan.errors import InputError, SchemeError
from bitplan.formats import MATRIX_SCALE, Packed
from bitplan.schema import Scheme

Quantizer = Callable[[Tensor, Sequence[Scheme], Curvature | None, Tensor | None], list[Packed]]
"""(some rows of a weight [out, in], coded schemes, H, the largest absolute value of all rows)
-> the packed rows for each scheme"""

QUANTIZERS: dict[str, Quantizer] = {
    "gptq": gptq,
    "quantease": quantease,
    "admm": admm,
    "clip": clip,
    "dsnot": dsnot,
    "hqq": hqq,
    "rtn": rtn,
}

ROWS_AT_ONCE = 16384
WEIGHTS_AT_ONCE = 1 << 26
"""Rows and weights, over all schemes, that are rendered together: they bound the memory taken."""


@torch.no_grad()
def render(
    weight: Float[Tensor, "*experts out in"],
    schemes: Sequence[Scheme],
    *,
    quantizer: str = "gptq",
    covariance: Float[Tensor, "*experts in in"] | None = None,
    shrinkage: Float[Tensor, "*experts"] | None = None,
) -> dict[Scheme, Packed]:
    """Compress `weight` to each of `schemes`.

    `covariance` is H of `bitplan.sensitivity.statistics`, up to a factor; without it all columns
    weigh alike, as they always do for hqq and rtn. Quantizers that read more than its diagonal
    draw it there by `shrinkage`, from 0 (default) to 1.
    Each scheme comes out the same, alone or beside others. Raises `InputError` for an unknown
    quantizer, and for a weight or a covariance that is not finite, and `SchemeError` for a sparsity
    that its rows cannot have.
    """
    get_quantizer(quantizer)
    for scheme in schemes:
        if scheme.sparsity and (reason := scheme.sparsity.unfit(weight.shape[-1])):
            raise SchemeError(f"{scheme} is not for this weight: {reason}. Choose another.")
    if not all(map(torch.isfinite, torch.aminmax(weight))):
        raise InputError(
            "A weight holds NaN or infinite values; all must be finite. Load the model again, or "
            "in a wider dtype: bfloat16 in place of float16, or float32."
        )
    # The extremes are NaN where any value is, and take no copy to find.
    if covariance is not None and not all(map(torch.isfinite, torch.aminmax(covariance))):
        raise InputError(
            "The statistics of a weight hold NaN or infinite values; all must be finite. The "
            "calibration pass overflowed: measure again in float32 or bfloat16, or without the "
            "text that does it."
        )
    rendered = {s: Packed.cast(s, weight) for s in schemes if s.is_float}
    coded = [scheme for scheme in schemes if not scheme.is_float]
    if coded:
        if covariance is not None and shrinkage is None:
            shrinkage = torch.zeros(covariance.shape[:-2])
        packed = _render(weight, coded, QUANTIZERS[quantizer], covariance, shrinkage)
        rendered |= dict(zip(coded, packed, strict=True))
    return {scheme: rendered[scheme] for scheme in schemes}


def get_quantizer(name: str) -> Quantizer:
    """The quantizer of a name; raises `InputError` with those there are."""
    if name not in QUANTIZERS:
        known = ", ".join(QUANTIZERS)
        raise InputError(f"There is no quantizer {name!r}. Choose one of: {known}.")
    return QUANTIZERS[name]


def reads_covariance(quantizer: str) -> bool:
    """Whether a quantizer is any better for H."""
    return get_quantizer(quantizer) not in (rtn, hqq)


def _render(
    weight: Tensor,
    schemes: Sequence[Scheme],
    quantizer: Quantizer,
    covariance: Tensor | None,
    shrinkage: Tensor | None,
) -> list[Packed]:
    if weight.dim() == 3:
        of_expert = [
            [None if tensor is None else tensor[index] for tensor in (covariance, shrinkage)]
            for index in range(len(weight))
        ]
        experts = [
            _render(w, schemes, quantizer, *its) for w, its in zip(weight, of_expert, strict=True)
        ]
        return [_joined(parts, stack=True) for parts in zip(*experts, strict=True)]
    curvature = None
    if covariance is not None and shrinkage is not None:
        curvature = Curvature(covariance=covariance, shrinkage=shrinkage.item())
    at_once = min(ROWS_AT_ONCE, WEIGHTS_AT_ONCE // weight.shape[1])
    rows = max(1, at_once // len(schemes))
    low, high = torch.aminmax(weight)
    reach = torch.maximum(-low, high).float()
    parts = [quantizer(part, schemes, curvature, reach) for part in weight.split(rows)]
    if len(parts) == 1:
        return parts[0]
    return [_joined(pieces, stack=False) for pieces in zip(*parts, strict=True)]


def _joined(parts: Sequence[Packed], *, stack: bool) -> Packed:
    first = parts[0]
    join = torch.stack if stack else torch.cat
    tensors = {name: join([p.tensors[name] for p in parts]) for name in first.tensors}
    if not stack and MATRIX_SCALE in first.tensors:
        tensors[MATRIX_SCALE] = first.tensors[MATRIX_SCALE]  # of all rows
    rows = (len(parts), *first.shape) if stack else (sum(p.shape[0] for p in parts), first.shape[1])
    return Packed(scheme=first.scheme, shape=rows, tensors=tensors)
