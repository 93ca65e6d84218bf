"""Schemes that no kernel of this machine multiplies: said once for a model, or refused."""

import logging
import os
from collections.abc import Iterable

from bitplan.errors import SchemeError
from bitplan.kernels import choose
from bitplan.kernels.choose import KERNEL
from bitplan.schema import Kind, Layer, Scheme, parts

log = logging.getLogger(__name__)

SHOWN = 3
"""Layers that a message names."""

PRODUCTS = (Kind.LINEAR, Kind.CONV1D, Kind.EXPERTS)
"""Kinds that are multiplied; convolutions are decoded in any scheme, looked up rows are few."""


def check_kernels(
    schemes: Iterable[tuple[Layer, Scheme]], device: object, *, strict: bool = False
) -> None:
    """Warn of layers that would be decoded for each product on a device.

    Nothing is said where the environment variable asks for an implementation.

    Raises `SchemeError` if `strict`.
    """
    if os.environ.get(KERNEL) and not strict:
        return
    found: list[str] = []
    for layer, scheme in schemes:
        if layer.kind in PRODUCTS or (layer.kind is Kind.EMBEDDING and layer.tied):
            why = _why_decoded(layer, scheme, str(device))
            found += [] if why is None else [f"{layer.name} in {scheme} ({why})"]
    if not found:
        return
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    message = (
        f"No kernel on {device} multiplies {len(found)} of the layers as they are packed: "
        f"{', '.join(found[:SHOWN])}{more}."
    )
    if strict:
        raise SchemeError(f"{message} Make a plan without these schemes, or leave strict out.")
    log.warning("%s They are decoded for each product, which is slow.", message)


def _why_decoded(layer: Layer, scheme: Scheme, device: str) -> str | None:
    """The reason, or None where kernels multiply each part, or there is nothing to decode."""
    lookup = layer.kind is Kind.EMBEDDING
    of_weight = layer.shape if layer.expert is None else (1, *layer.shape)
    for part, shape in parts(scheme, of_weight).values():
        if not (part.is_float or part.is_none) and all(shape):
            found, why = choose(part, shape, device=device, lookup=lookup)
            if found == "reference":
                return why.rstrip(".")
    return None
