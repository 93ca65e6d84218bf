"""What whoever runs the service may choose, by arguments or BITPLAN_SERVICE_... variables."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import platformdirs
from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _split(value: Any) -> Any:
    """A list as people write it in an environment: JSON, or with commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [item.strip() for item in value.split(",") if item.strip()]


Folders: TypeAlias = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)]
Names: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Rate: TypeAlias = Annotated[str, Field(pattern=r"^[1-9][0-9]*/(second|minute|hour|day)$")]


class ServiceSettings(BaseSettings):
    """Settings of server and workers; all of one service must agree on them.

    Lists are given in the environment as JSON or with commas. Bytes given in GB are of 10^9.
    """

    model_config = SettingsConfigDict(env_prefix="BITPLAN_SERVICE_", frozen=True, extra="forbid")

    folder: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("bitplan")) / "service",
        description="Where database, queue, artefacts and work are",
    )
    database_url: str | None = Field(
        default=None, description="As postgresql+psycopg://user@host/name; none: SQLite in folder"
    )
    redis_url: str | None = Field(
        default=None, description="Of the queue, as redis://host:6379/0; none: SQLite in folder"
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0: on all")
    port: int = Field(default=8642, ge=0, le=65535, description="0: any that is free")
    workers: int = Field(default=1, ge=0, description="Jobs that run at once on this machine")
    model_folders: Folders = Field(default=(), description="Where models may lie")
    text_folders: Folders = Field(default=(), description="Where calibration text may lie")
    organisations: Names = Field(default=(), description="Of the hub, whose models may be used")
    demo: bool = Field(default=False, description='Whether the model "demo" may be used')
    ray_address: str | None = Field(
        default=None, description="The one Ray cluster that jobs may use, as ray://host:10001"
    )
    token_required: bool | None = Field(
        default=None, description="None: on every address but loopback"
    )
    max_body_bytes: int = Field(default=64_000_000, ge=1, description="Of a request")
    max_upload_bytes: int = Field(default=64_000_000, ge=1, description="Of a table or plan")
    read_rate: Rate = Field(default="600/minute", description="Requests of one token or address")
    submit_rate: Rate = Field(default="60/minute", description="Likewise, those that change things")
    time_limit_s: float | None = Field(
        default=None, gt=0, description="The longest that a job may run, and what it gets"
    )
    memory_limit_gb: float | None = Field(default=None, gt=0, description="Likewise, resident")
    disk_limit_gb: float | None = Field(default=None, gt=0, description="Likewise, work folder")
    lease_s: float = Field(
        default=30, gt=0, description="After so long without a word from its worker a job is free"
    )
    most_deaths: int = Field(
        default=5, ge=1, description="How often a job's process may die before the job has failed"
    )
    grace_s: float = Field(
        default=20, ge=0, description="Between asking a job's process to stop and killing it"
    )
    keep_days: float = Field(
        default=30, gt=0, description="How long work folders are kept that no job uses"
    )
    log_format: Literal["json", "text"] = Field(default="text", description="text or json")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="DEBUG, INFO, WARNING or ERROR"
    )

    @property
    def url(self) -> str:
        """Where the database is, as SQLAlchemy takes it."""
        if self.database_url is None:
            return f"sqlite:///{self.folder / 'service.db'}"
        # The driver that is in the extra; SQLAlchemy's own choice is another.
        for start in ("postgres://", "postgresql://"):
            if self.database_url.startswith(start):
                return "postgresql+psycopg://" + self.database_url.removeprefix(start)
        return self.database_url

    @property
    def artefact_folder(self) -> Path:
        """Where artefacts lie, by digest; workers on several machines share it."""
        return self.folder / "artefacts"

    @property
    def work_folder(self) -> Path:
        """Where jobs keep what a later attempt goes on from."""
        return self.folder / "work"
