"""What the service tells of models and of tables that it solves. Fields to come are passed over."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from bitplan.service.records import Job


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelEntry(_Told):
    """A model in a folder that the service allows."""

    name: str
    path: str
    bytes: int = Field(description="Of its weights")


class Models(_Told):
    """What a job may name as its model: these, and what is of these organisations of the hub."""

    models: tuple[ModelEntry, ...]
    organisations: tuple[str, ...] = ()
    demo: bool = Field(default=False, description='Whether "demo" is one')


class ModelSummary(_Told):
    """A model's size, and what budgets it could have."""

    parameters: int
    bytes: int = Field(description="As it is")
    layers: int
    blocks: int
    smallest_bytes: int = Field(description="Of the smallest plan of the default menu")
    largest_bytes: int


class Point(_Told):
    """The best plan of a size."""

    bytes: int
    loss: float = Field(description="Predicted KL, nats per token")
    bits: float = Field(description="On average, a weight")


class Uniform(_Told):
    """One scheme throughout."""

    scheme: str
    bytes: int
    loss: float


class MeasuredPoint(_Told):
    """A plan that was run on the model."""

    bytes: int
    kl: float = Field(description="Measured, nats per token")
    name: str


class Frontier(_Told):
    """The best plans of a table at several sizes, and what they are compared with."""

    points: tuple[Point, ...]
    uniform: tuple[Uniform, ...] = ()
    measured: tuple[MeasuredPoint, ...] = ()


class JobPage(_Told):
    """Some jobs, newest first; `next` is where to go on."""

    jobs: tuple[Job, ...]
    next: str | None = None


class Solved(_Told):
    """A plan that was made of a table."""

    plan: dict[str, Any] = Field(description="As its file has it")


class Uploaded(_Told):
    """Where an uploaded table or plan is."""

    digest: str
