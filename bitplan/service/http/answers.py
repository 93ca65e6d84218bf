"""Records as answers: written by pydantic once, not checked a second time."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from starlette.responses import Response

from bitplan.schema.record import Record

_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A record, or plain values with records in them, as JSON."""
    if isinstance(content, Record):
        body = content.model_dump_json().encode()
    else:
        body = _ANY.dump_json(content)
    return Response(body, status, headers=headers, media_type="application/json")


def answer_text(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON that is written already."""
    return Response(text, status, headers=headers, media_type="application/json")
