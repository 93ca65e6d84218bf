"""What crosses HTTP: jobs, their events and artefacts, tokens. Frozen, no unknown fields."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from bitplan.schema.record import Record
from bitplan.service.parameters import Parameters

JobId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class State(StrEnum):
    """Where a job is. The last three are ends: a job reaches one of them, once."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to the job, unless it is tried again."""
        return self not in (State.QUEUED, State.RUNNING)


class Scope(StrEnum):
    """What a token allows. Each holds those before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def allows(self, wanted: "Scope") -> bool:
        """Whether a token of this scope may do what needs that one."""
        order = list(Scope)
        return order.index(self) >= order.index(wanted)


class Limits(Record):
    """What a job may take; None: what the server allows."""

    time_s: float | None = Field(default=None, gt=0, description="Seconds of running, all attempts")
    memory_gb: float | None = Field(default=None, gt=0, description="Resident, 10^9 bytes")
    disk_gb: float | None = Field(default=None, gt=0, description="Its work folder, 10^9 bytes")


class JobRequest(Record):
    """A stage and its parameters, and how it is to be run."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"parameters": {"kind": "allocate", "model": "/models/llama", "budget_gb": 4.5}},
            ]
        }
    )

    parameters: Parameters = Field(discriminator="kind")
    priority: int = Field(default=0, ge=-10, le=10, description="Higher runs earlier")
    limits: Limits = Limits()
    label: str = Field(default="", max_length=200, description="A name for people")


class Fault(Record):
    """Why a job failed: the library's own message, which says what to do."""

    kind: str = Field(description="The error's class, as InfeasibleError")
    message: str
    is_input: bool = Field(description="True: the request cannot be met; false: try again")


class Progress(Record):
    """How far a running job is."""

    stage: str
    done: int
    total: int
    remark: str = ""
    seconds_left: float | None = Field(default=None, description="Of this stage, by its own pace")


class Job(Record):
    """A job as the service tells it."""

    id: JobId
    request: JobRequest
    owner: str
    state: State
    attempt: int = Field(description="How often a worker has taken it up")
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    is_cancelling: bool = False
    progress: Progress | None = None
    fault: Fault | None = None
    artefacts: tuple["Artefact", ...] = ()

    @property
    def kind(self) -> str:
        """The stage that it runs."""
        return self.request.parameters.kind


class Artefact(Record):
    """A file that a job made; stored once for each content."""

    name: str = Field(description="Relative path, as plan.json or model/config.json")
    digest: Digest = Field(description="sha256 of the bytes")
    bytes: int
    media_type: str = "application/octet-stream"


class Event(Record):
    """Something that happened to a job; `number` rises from 1 without gaps."""

    number: int
    job: JobId
    at: datetime
    kind: Literal["state", "progress", "remark", "artefact", "log"]
    data: dict[str, Any]


class Token(Record):
    """A bearer token without its secret."""

    id: str
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
