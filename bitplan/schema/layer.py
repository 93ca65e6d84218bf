"""One weight that gets a scheme, or the keys or values that one attention module caches."""

import math
from enum import StrEnum
from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from bitplan.schema.record import Record


class Kind(StrEnum):
    """What a layer does with its weight; `keys` and `values` are what attention caches.

    `conv1d` is what GPT-2 calls a linear; a convolution over time, of speech, is `timeconv`.
    """

    LINEAR = "linear"
    CONV1D = "conv1d"
    CONV2D = "conv2d"
    TIMECONV = "timeconv"
    EMBEDDING = "embedding"
    EXPERTS = "experts"
    KEYS = "keys"
    VALUES = "values"


class Layer(Record):
    """One weight that gets a scheme, or the keys or values that one attention module caches.

    `name` is the path of the module that holds the weight (for experts, of the parameter, and with
    its number where each is a layer; for a cache, of the attention module, with `.keys` or
    `.values`). `shape` is [out, in] as a matrix product reads it, [experts, out, in] for all of a
    parameter's experts, [vocabulary, hidden] for embeddings and [out, in x height x width] for
    convolutions, whatever way round the model stores it; for a cache, [batch x tokens kept,
    heads x head_dim].
    """

    name: str
    kind: Kind
    shape: tuple[PositiveInt, ...] = Field(min_length=2, max_length=3)
    block: NonNegativeInt | None = Field(default=None, description="index of its block, if any")
    tied: tuple[str, ...] = Field(default=(), description="other modules that share its storage")
    fuse: str | None = Field(default=None, description="layers with one key are fused by runtimes")
    tokens: NonNegativeFloat = Field(default=1.0, description="share of tokens that reach it")

    @model_validator(mode="after")
    def _has_a_number(self) -> Self:
        if self.kind is Kind.EXPERTS and len(self.shape) == 2:
            _, dot, number = self.name.rpartition(".")
            if not (dot and number.isdecimal()):
                raise ValueError(f"{self.name!r} is one expert, but its name has no number")
        return self

    @property
    def parameters(self) -> int:
        """Number of weights, or of cached numbers."""
        return math.prod(self.shape)

    @property
    def expert(self) -> int | None:
        """Which one of its parameter's experts it is; None: all of them, or no expert."""
        is_one = self.kind is Kind.EXPERTS and len(self.shape) == 2
        return int(self.name.rpartition(".")[2]) if is_one else None

    @property
    def parameter(self) -> str:
        """Path of the tensor that holds the weight, in the dense model."""
        if self.kind is not Kind.EXPERTS:
            return f"{self.name}.weight"
        return self.name if self.expert is None else self.name.rpartition(".")[0]

    @property
    def is_cache(self) -> bool:
        """Whether it is cached keys or values, not a weight."""
        return self.kind in (Kind.KEYS, Kind.VALUES)
