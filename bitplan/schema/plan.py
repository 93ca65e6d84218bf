"""Layer by layer, the scheme to store it in."""

from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from bitplan.errors import InputError, PlanError
from bitplan.names import EACH, TOGETHER
from bitplan.schema.artefact import Artefact
from bitplan.schema.evidence import Evidence
from bitplan.schema.kept import Kept
from bitplan.schema.layer import Layer
from bitplan.schema.provenance import Provenance
from bitplan.schema.record import Record
from bitplan.schema.scheme import Scheme


class Choice(Record):
    """The scheme that a plan gives to one layer."""

    layer: Layer
    scheme: Scheme
    bytes: NonNegativeInt
    loss: NonNegativeFloat = Field(description="predicted increase of KL, nats per token")


class Plan(Artefact):
    """Layer by layer, the scheme to store it in. No timestamps: same inputs, same bytes."""

    provenance: Provenance
    budget_bytes: PositiveInt
    bytes: NonNegativeInt = Field(description="of the whole model, and its cache if it is counted")
    rest_bytes: NonNegativeInt = Field(description="all that no scheme touches: norms, biases, ...")
    predicted_kl: float = Field(
        description="sum of the choices' losses and of `interactions`, nats per token; what "
        "interactions take below zero is not to be believed"
    )
    interactions: float = Field(
        default=0.0, description="what pairs of layers add to the sum of the choices' losses"
    )
    lower_bound: float = Field(description="no plan of the table can predict less")
    gap: NonNegativeFloat = Field(
        description="predicted_kl - lower_bound, as a share of the larger of both in size"
    )
    status: str = Field(description="what the solver says of its answer")
    solver: str
    constraints: Kept | None = Field(
        default=None, description="what it was to keep to beside the budget; null: nothing known"
    )
    evidence: Evidence | None = Field(default=None, description="None: not measured")
    choices: tuple[Choice, ...] = Field(min_length=1)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """What tells plans apart at a prompt; the layers are too many to print."""
        yield "model", self.provenance.model
        for name in ("bytes", "budget_bytes", "predicted_kl", "gap", "solver"):
            yield name, getattr(self, name)
        yield "layers", len(self.choices)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.rest_bytes + sum(choice.bytes for choice in self.choices)
        if total != self.bytes:
            raise ValueError(f"its layers add up to {total:,} bytes, but it says {self.bytes:,}")
        return self

    @property
    def schemes(self) -> dict[str, Scheme]:
        """Scheme by layer name."""
        return {choice.layer.name: choice.scheme for choice in self.choices}

    @property
    def experts(self) -> str:
        """Whether those of one tensor are one layer ("together") or one "each"."""
        is_each = any(choice.layer.expert is not None for choice in self.choices)
        return EACH if is_each else TOGETHER

    @property
    def cache_bytes(self) -> int:
        """Of the keys and values of `provenance.batch` sequences of `provenance.context` tokens."""
        return sum(choice.bytes for choice in self.choices if choice.layer.is_cache)

    @property
    def weight_bytes(self) -> int:
        """Of the applied model's parameters and buffers: all but the cache."""
        return self.bytes - self.cache_bytes

    @classmethod
    def _error(cls) -> type[InputError]:
        return PlanError
