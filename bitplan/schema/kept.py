"""What a plan was to keep to beside its budget, as its file records it."""

from typing import Any

from pydantic import Field, PositiveInt

from bitplan.schema.record import Record

Number = int | float


class KeptLimit(Record):
    """A limit on what all layers, or each, may take of something."""

    resource: str = Field(description="what is limited: AverageBits, ReadBytes, Seconds, ...")
    most: Number
    options: dict[str, Any] = Field(
        default_factory=dict, description="what else defines it: context, activation bits, times"
    )


class Kept(Record):
    """What a plan was to keep to: `bitplan.allocator.Constraints`, with schemes by their names."""

    pins: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    floors: dict[str, str | Number] = Field(default_factory=dict)
    ceilings: dict[str, str | Number] = Field(default_factory=dict)
    ties: tuple[tuple[str, ...], ...] = ()
    fuse: bool = False
    most_schemes: PositiveInt | None = None
    runtime: str | None = None
    limits: tuple[KeptLimit, ...] = ()
