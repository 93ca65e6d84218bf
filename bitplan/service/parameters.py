"""The parameters of each kind of job: what the library's functions take, as JSON."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from bitplan.schema.record import Record

Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
ModelName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1000),
    Field(description="A folder or .gguf file that the server allows, or a hub id"),
]
Schemes: TypeAlias = Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
Wildcards: TypeAlias = dict[Name, Name | tuple[Name, ...]]


class Describe(Record):
    """A model to a list of its layers: `bitplan.describe`."""

    kind: Literal["describe"] = "describe"
    model: ModelName
    dtype: str = "auto"
    context: int = Field(default=0, ge=0)
    batch: int = Field(default=1, ge=1)


class Constrained(Record):
    """What a plan must keep to, as `bitplan.allocator.Constraints` takes it."""

    pins: Wildcards = Field(default_factory=dict)
    floors: dict[Name, Name | float] = Field(default_factory=dict)
    ceilings: dict[Name, Name | float] = Field(default_factory=dict)
    ties: tuple[Name | tuple[Name, ...], ...] = ()
    fuse: bool = False
    most_schemes: int | None = Field(default=None, ge=1)
    runtime: Name | None = None


class Measure(Record):
    """A model to a cost table: `bitplan.measure`. None and "auto" are the library's defaults."""

    kind: Literal["measure"] = "measure"
    model: ModelName
    schemes: Schemes | None = None
    measured: Schemes | None = None
    calibration: Name | None = Field(
        default=None, description="A text or JSONL file that the server allows; none: sampled text"
    )
    temperature: float = Field(default=1.0, ge=0)
    sequences: int | None = Field(default=None, ge=1, le=100_000)
    search_sequences: int = Field(default=8, ge=1, le=100_000)
    held_out_sequences: int = Field(default=16, ge=1, le=100_000)
    length: int | None = Field(default=None, ge=2, le=1_000_000)
    time_limit_s: float | None = Field(default=None, gt=0)
    estimator: Name = "auto"
    effort: Name = "standard"
    quantizer: Name | None = None
    transform: Name = "none"
    experts: Name = "together"
    through: Name = "auto"
    seed: int = Field(default=0, ge=0)
    dtype: Name = "auto"
    context: int = Field(default=0, ge=0)
    batch: int = Field(default=1, ge=1)
    cache_schemes: Schemes | None = None
    engine: Name = "auto"
    workers: int | None = Field(default=None, ge=1)


class Allocate(Measure):
    """A model and a budget to a plan: `bitplan.allocate`."""

    kind: Literal["allocate"] = "allocate"  # type: ignore[assignment]
    budget_gb: float = Field(gt=0)
    constraints: Constrained = Constrained()
    solver: Name = "auto"
    preset: Name | None = None
    refine_tokens: int | None = Field(default=None, ge=0)
    search: Name = "auto"
    verify: bool = True


class Compress(Allocate):
    """The whole path: a model and a budget to a plan and the compressed model."""

    kind: Literal["compress"] = "compress"  # type: ignore[assignment]
    tune_epochs: float | None = Field(default=None, ge=0, le=1000)
    block_epochs: float = Field(default=0, ge=0, le=1000)
    block_window: int = Field(default=1, ge=1, le=1000)


class Apply(Record):
    """A model and a plan to a compressed model: `bitplan.apply_plan`."""

    kind: Literal["apply"] = "apply"
    model: ModelName
    plan: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of a plan that the server has")
    calibration: Name | None = None
    effort: Name = "standard"
    tune_epochs: float | None = Field(default=None, ge=0, le=1000)
    block_epochs: float = Field(default=0, ge=0, le=1000)
    block_window: int = Field(default=1, ge=1, le=1000)


Parameters: TypeAlias = Describe | Measure | Allocate | Compress | Apply

KINDS: Mapping[str, type[Parameters]] = {
    "describe": Describe,
    "measure": Measure,
    "allocate": Allocate,
    "compress": Compress,
    "apply": Apply,
}
"""The kinds of jobs, and what each takes."""
