"""Parameters as people write them, `key=value`, for the record that takes them."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter

from bitplan.errors import InputError


def assignments(record: type[BaseModel], texts: Sequence[str]) -> dict[str, Any]:
    """What `key=value`s say; a dot in a key goes into a record, a list has commas or is JSON.

    Unknown keys are left to the record's own check. Raises `InputError`.

    >>> from bitplan.service.parameters import Allocate
    >>> assignments(Allocate, ["schemes=int3g64,int4g64", "constraints.fuse=true"])
    {'schemes': ['int3g64', 'int4g64'], 'constraints': {'fuse': 'true'}}
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        *path, last = key.strip().split(".")
        if not (equals and last):
            raise InputError(f"{text!r} is not KEY=VALUE. Write --set sequences=64.")
        place, kind = values, record
        for name in path:
            place, kind = place.setdefault(name, {}), _record_at(kind, name)
            if not isinstance(place, dict):
                raise InputError(f"{name!r} has a value, and {text!r} sets a part of it. Give one.")
        if last in place:
            raise InputError(f"{key!r} is set twice. Set it once.")
        place[last] = _value(kind, last, key, value)
    return values


def _record_at(record: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
    field = record.model_fields.get(name) if record else None
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _value(record: type[BaseModel] | None, name: str, key: str, text: str) -> Any:
    """The text; a list or an object where the field is one. Numbers are the record's to read."""
    field = record.model_fields.get(name) if record else None
    if field is None:
        return text
    kind: Any = field.annotation
    schema = TypeAdapter(kind).json_schema()
    types = {each.get("type") for each in schema.get("anyOf", [schema])}
    if text == "null" and "null" in types:
        return None
    if "array" in types and not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    if not types & {"array", "object"}:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{key} takes JSON, and {text!r} is none ({error}). Write it in single quotes, as "
            '--set \'constraints.pins={"*.v_proj": "int4g64"}\'.'
        ) from None
