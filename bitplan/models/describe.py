"""A model at a glance: its layers, what is left in full precision, and every byte of both."""

from collections import Counter
from typing import Self

from pydantic import NonNegativeInt, model_validator
from torch import Tensor, nn

from bitplan.footprint import default_schemes, legal_schemes, scheme_bytes
from bitplan.models.classify import Why
from bitplan.models.layers import layers_of
from bitplan.models.scan import scan
from bitplan.models.source import source_name
from bitplan.schema import Layer, Record


class StoredLayer(Record):
    """A layer as the model stores it."""

    layer: Layer
    dtype: str
    bytes: NonNegativeInt


class Rest(Record):
    """A tensor that no scheme touches."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: NonNegativeInt
    why: Why


class Description(Record):
    """A model's layers and the rest; shared storage is counted once, everywhere.

    `smallest_bytes` and `largest_bytes` are of the whole model under the default menu of schemes.
    """

    name: str
    architecture: str
    dtype: str
    parameters: NonNegativeInt
    layers: tuple[StoredLayer, ...]
    rest: tuple[Rest, ...]
    bytes: NonNegativeInt
    smallest_bytes: NonNegativeInt
    largest_bytes: NonNegativeInt

    @property
    def rest_bytes(self) -> int:
        """Bytes of all that no scheme touches: norms, biases, buffers, ..."""
        return sum(item.bytes for item in self.rest)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.rest_bytes + sum(layer.bytes for layer in self.layers)
        if total != self.bytes:
            raise ValueError(f"its parts add up to {total:,} bytes, but it says {self.bytes:,}")
        return self


def describe(model: nn.Module) -> Description:
    """Describe a model, parameters and buffers, persistent or not: all of them take memory.

    A model without layers can be described too.
    """
    found = scan(model)
    layers = [
        StoredLayer(layer=layer, dtype=_dtype(weight.slot.tensor), bytes=weight.slot.tensor.nbytes)
        for layer, weight in zip(layers_of(model, found.weights), found.weights, strict=True)
    ]
    rest = [
        Rest(
            name=left.name,
            shape=tuple(left.tensor.shape),
            dtype=_dtype(left.tensor),
            bytes=left.tensor.nbytes,
            why=left.why,
        )
        for left in found.rest
    ]
    rest_bytes = sum(item.bytes for item in rest)
    sizes = [_sizes(stored) for stored in layers]
    parameters = [weight.slot.tensor for weight in found.weights]
    parameters += [left.tensor for left in found.rest if left.why is not Why.BUFFER]
    return Description(
        name=source_name(model),
        architecture=type(model).__name__,
        dtype=_main_dtype(parameters),
        parameters=sum(parameter.numel() for parameter in parameters),
        layers=tuple(layers),
        rest=tuple(rest),
        bytes=rest_bytes + sum(stored.bytes for stored in layers),
        smallest_bytes=rest_bytes + sum(min(choices) for choices in sizes),
        largest_bytes=rest_bytes + sum(max(choices) for choices in sizes),
    )


def _sizes(stored: StoredLayer) -> list[int]:
    schemes = legal_schemes(stored.layer, stored.dtype, default_schemes(stored.dtype))
    return [scheme_bytes(stored.layer.shape, scheme) for scheme in schemes]


def _main_dtype(tensors: list[Tensor]) -> str:
    """The dtype of most parameters."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[_dtype(tensor)] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else "none"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
