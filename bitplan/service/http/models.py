"""Models that jobs may name, and how large they are."""

import os
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Response

from bitplan.schema.record import Record
from bitplan.service.http.answers import answer, answer_text
from bitplan.service.http.caller import Reader
from bitplan.service.http.state import Parts
from bitplan.service.http.threads import in_thread
from bitplan.service.parameters import ModelName
from bitplan.service.policy import DEMO

DESCRIBE_S = 300.0
"""The longest that describing a model may take; the first one also imports torch."""

router = APIRouter(tags=["models"])


class ModelEntry(Record):
    """A model in an allowed folder."""

    name: str
    path: str
    bytes: int


class Models(Record):
    """What jobs may name."""

    models: tuple[ModelEntry, ...]
    organisations: tuple[str, ...]
    demo: bool


class ModelDescription(Record):
    """A model's size, and the least and the most that its plans can have."""

    model: str
    architecture: str
    dtype: str
    parameters: int
    bytes: int
    rest_bytes: int
    layers: int
    blocks: int
    kinds: dict[str, int]
    smallest_bytes: int
    largest_bytes: int


@router.get("/v1/models", summary="Models that jobs may name", response_model=Models)
def list_models(service: Parts, caller: Reader) -> Response:
    """Those that lie in allowed folders, and the hub organisations whose models are allowed."""
    found = service.policy.models()
    return answer(
        Models(
            models=tuple(ModelEntry(**vars(one)) for one in found),
            organisations=tuple(service.policy.organisations),
            demo=service.policy.demo,
        )
    )


@router.get(
    "/v1/models/description", summary="A model's size and layers", response_model=ModelDescription
)
async def describe(
    service: Parts,
    caller: Reader,
    model: Annotated[ModelName, Query()],
    dtype: Annotated[str, Query(max_length=20)] = "auto",
    context: Annotated[int, Query(ge=0, le=100_000_000)] = 0,
    batch: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:
    """Read from its config and the headers of its files: no weights are loaded."""
    allowed = await in_thread(service.policy.model, model)
    stamp = "" if allowed == DEMO else await in_thread(_stamp, allowed)
    text = await service.reader.call(
        "describe_model", allowed, stamp, dtype, context, batch, time_limit_s=DESCRIBE_S
    )
    return answer_text(text)


def _stamp(model: str) -> str:
    """What changes when a model's files do; empty for a hub id."""
    path = Path(model)
    if not path.is_absolute():
        return ""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    parts = [(file.name, os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in files]
    return repr(parts)
