"""A model at a glance: its layers, what is left in full precision, and every byte of both."""

from collections import Counter
from typing import Self

import torch
from pydantic import NonNegativeInt, model_validator
from torch import Tensor, nn

from bitplan.footprint import (
    default_cache_schemes,
    default_schemes,
    legal_schemes,
    scheme_bytes,
)
from bitplan.models.caches import Cached, find_caches, why_no_cache
from bitplan.models.classify import Why
from bitplan.models.layers import layers_of
from bitplan.models.load import load_outline
from bitplan.models.scan import scan
from bitplan.models.source import Source, source_name
from bitplan.names import EACH, TOGETHER, check_experts
from bitplan.schema import Layer, Record, of_each_expert


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
    All bytes have those of `caches` in them, which are there when they were asked for; `no_cache`
    says why there are none all the same.
    """

    name: str
    architecture: str
    dtype: str
    parameters: NonNegativeInt
    layers: tuple[StoredLayer, ...]
    caches: tuple[StoredLayer, ...] = ()
    no_cache: str | None = None
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
        total = self.rest_bytes + sum(stored.bytes for stored in (*self.layers, *self.caches))
        if total != self.bytes:
            raise ValueError(f"its parts add up to {total:,} bytes, but it says {self.bytes:,}")
        return self


def describe(
    model: Source, *, context: int = 0, batch: int = 1, experts: str = TOGETHER
) -> Description:
    """Describe a model, parameters and buffers, persistent or not: all of them take memory.

    Of a folder, a .gguf file or a hub id no weights are read. With a context, what it caches for
    `batch` sequences of so many tokens is counted too. `experts` says whether those of one tensor
    are one layer ("together") or one "each". A model without layers can be described too.
    Raises `ModelError` for what cannot be loaded, `InputError` for a context longer than the
    model's.
    """
    check_experts(experts)
    if not isinstance(model, nn.Module):
        model = load_outline(model)
    found = scan(model)
    layers = [
        StoredLayer(
            layer=layer,
            dtype=_dtype(weight.slot.tensor),
            bytes=layer.parameters * weight.slot.tensor.itemsize,
        )
        for whole, weight in zip(layers_of(model, found.weights), found.weights, strict=True)
        for layer in (of_each_expert([whole]) if experts == EACH else [whole])
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
    parameters = [weight.slot.tensor for weight in found.weights]
    parameters += [left.tensor for left in found.rest if left.why is not Why.BUFFER]
    dtype = _main_dtype(parameters)
    cached = find_caches(model, context=context, batch=batch) if context else ()
    caches = [_stored(one, dtype) for one in cached]
    sizes = [_sizes(stored) for stored in layers]
    sizes += [_cache_sizes(one, dtype) for one in cached]
    return Description(
        name=source_name(model),
        architecture=type(model).__name__,
        dtype=dtype,
        parameters=sum(parameter.numel() for parameter in parameters),
        layers=tuple(layers),
        caches=tuple(caches),
        no_cache=why_no_cache(model) if context else None,
        rest=tuple(rest),
        bytes=rest_bytes + sum(stored.bytes for stored in (*layers, *caches)),
        smallest_bytes=rest_bytes + sum(min(choices) for choices in sizes),
        largest_bytes=rest_bytes + sum(max(choices) for choices in sizes),
    )


def _sizes(stored: StoredLayer) -> list[int]:
    schemes = legal_schemes(stored.layer, stored.dtype, default_schemes(stored.dtype))
    return [scheme_bytes(stored.layer.shape, scheme) for scheme in schemes]


def _stored(cached: Cached, dtype: str) -> StoredLayer:
    size = cached.layer.parameters * getattr(torch, dtype).itemsize
    return StoredLayer(layer=cached.layer, dtype=dtype, bytes=size)


def _cache_sizes(cached: Cached, dtype: str) -> list[int]:
    schemes = default_cache_schemes(dtype, cached.head_dim)
    legal = legal_schemes(cached.layer, dtype, schemes)
    return [scheme_bytes(cached.layer.shape, scheme) for scheme in legal]


def _main_dtype(tensors: list[Tensor]) -> str:
    """The dtype of most parameters."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[_dtype(tensor)] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else "none"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
