"""Render a weight in every scheme that is asked for, with one quantizer."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress.by_rows import Quantizer, by_rows
from bitplan.compress.channels import narrow, with_channels
from bitplan.compress.curvature import Curvature
from bitplan.compress.low_rank import add_low_rank
from bitplan.compress.quantizers.discquant import discquant
from bitplan.compress.quantizers.dsnot import dsnot
from bitplan.compress.quantizers.gptq import gptq
from bitplan.compress.quantizers.hqq import hqq
from bitplan.compress.quantizers.quantease import quantease
from bitplan.compress.quantizers.rtn import clip, rtn
from bitplan.compress.quantizers.signround import signround
from bitplan.compress.quantizers.solved import admm, icbs
from bitplan.compress.salient import salient_apart
from bitplan.errors import InputError, SchemeError
from bitplan.formats import Packed
from bitplan.names import check_quantizer
from bitplan.schema import Scheme, unfit

QUANTIZERS: dict[str, Quantizer] = {
    "gptq": gptq,
    "quantease": quantease,
    "signround": signround,
    "discquant": discquant,
    "admm": admm,
    "icbs": icbs,
    "clip": clip,
    "dsnot": dsnot,
    "hqq": hqq,
    "rtn": rtn,
}

COMPENSATING = ("gptq", "admm", "icbs", "quantease", "signround", "discquant")
"""Quantizers that let columns make up for the errors of others."""


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
    quantizer, and for a weight or a covariance that is not finite, and `SchemeError` for a scheme
    that a weight of this shape cannot have.
    """
    get_quantizer(quantizer)
    for scheme in schemes:
        if reason := unfit(scheme, weight.shape):
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
        packed = _render(weight, coded, quantizer, covariance, shrinkage)
        rendered |= dict(zip(coded, packed, strict=True))
    return {scheme: rendered[scheme] for scheme in schemes}


def get_quantizer(name: str) -> Quantizer:
    """The quantizer of a name; raises `InputError` with those there are."""
    check_quantizer(name)
    return QUANTIZERS[name]


def reads_covariance(quantizer: str) -> bool:
    """Whether a quantizer is any better for H."""
    return get_quantizer(quantizer) not in (rtn, hqq)


def _render(
    weight: Tensor,
    schemes: Sequence[Scheme],
    quantizer: str,
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
        return [Packed.stacked(parts, len(parts)) for parts in zip(*experts, strict=True)]
    curvature = None
    if covariance is not None and shrinkage is not None and reads_covariance(quantizer):
        curvature = Curvature(covariance=covariance, shrinkage=shrinkage.item())
    made: dict[Scheme, Packed] = {}
    for channels in dict.fromkeys(scheme.channels for scheme in schemes):
        some = [scheme for scheme in schemes if scheme.channels == channels]
        if channels is None:
            made |= zip(some, _all_columns(weight, some, quantizer, curvature), strict=True)
            continue
        compensate = quantizer in COMPENSATING
        left, of_left, kept = narrow(weight, channels, curvature, compensate=compensate)
        plain = [replace(scheme, channels=None) for scheme in some]
        for scheme, one in zip(some, _all_columns(left, plain, quantizer, of_left), strict=True):
            made[scheme] = with_channels(scheme, one, kept, (len(weight), weight.shape[1]))
    return [made[scheme] for scheme in schemes]


def _all_columns(
    weight: Float[Tensor, "out in"],
    schemes: Sequence[Scheme],
    quantizer: str,
    curvature: Curvature | None,
) -> list[Packed]:
    """One matrix in schemes that leave no column out."""
    quantize = QUANTIZERS[quantizer]
    plain = [*dict.fromkeys(scheme.base for scheme in schemes if scheme.salient is None)]
    made = dict(zip(plain, by_rows(weight, plain, quantize, curvature), strict=True))
    found = []
    for scheme in schemes:
        below = replace(scheme, low_rank=None)
        if below not in made:
            made[below] = salient_apart(
                weight, below, quantize, curvature, compensate=quantizer in COMPENSATING
            )
        one = made[below]
        found.append(one if scheme == below else add_low_rank(weight, scheme, one, curvature))
    return found
