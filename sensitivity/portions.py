"""A layer's schemes, a few at a time."""

from collections.abc import Iterator, Sequence

from bitplan.footprint import scheme_bytes
from bitplan.schema import Layer, Scheme

RENDERED_BYTES = 1 << 30
"""Of one layer in several schemes, held in memory at a time; a scheme that takes more is alone."""


def portions(layer: Layer, schemes: Sequence[Scheme]) -> Iterator[list[Scheme]]:
    """The schemes in order, as many at a time as may be held rendered."""
    portion: list[Scheme] = []
    held = 0
    for scheme in schemes:
        size = scheme_bytes(layer.shape, scheme)
        if portion and held + size > RENDERED_BYTES:
            yield portion
            portion, held = [], 0
        portion.append(scheme)
        held += size
    if portion:
        yield portion
