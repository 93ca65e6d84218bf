"""Records with a file of their own."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError

from bitplan.errors import InputError
from bitplan.files import read_text, write_text
from bitplan.schema.record import Record

SCHEMA_VERSION = 1
"""Raised when a file written by this version could be misread by an older one."""


class Artefact(Record):
    """A record with a file of its own: versioned, with a digest over its content."""

    version: Literal[1] = SCHEMA_VERSION

    def to_json(self) -> str:
        """The file's text: two-space JSON, keys in order of declaration, a digest at the end."""
        content = self.model_dump(mode="json")
        content["digest"] = digest_of(content)
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all. Raises `OutputError`."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote. Raises `InputError` of the record's own kind."""
        try:
            text = read_text(path)
        except InputError as error:
            raise cls._error()(str(error)) from error
        try:
            return cls.from_json(text)
        except cls._error() as error:
            raise cls._error()(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the text that `to_json` wrote."""
        error, noun = cls._error(), cls.__name__
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as cause:  # ValueError: also a number far too long
            raise error(
                f"This is not the JSON of a {noun} ({cause}); the file may be truncated. "
                "Make it again, or fetch it again."
            ) from None
        if not isinstance(content, dict) or "version" not in content:
            raise error(f"This JSON is not a {noun}: it has no version. Check the file's name.")
        if content["version"] != SCHEMA_VERSION:
            raise error(
                f"This {noun} has schema version {content['version']!r}; this bitplan reads "
                f"version {SCHEMA_VERSION}. Update bitplan, or make the {noun} again."
            )
        digest = content.pop("digest", None)
        if digest != digest_of(content):
            raise error(
                f"This {noun} was changed after bitplan wrote it: its digest does not match. "
                "To choose a layer's scheme yourself, solve again with pins."
            )
        try:
            return cls.model_validate(content)
        except ValidationError as cause:
            what = _first_fault(cause, content)
            raise error(
                f"This is not a {noun} that bitplan can read: {what} Make the {noun} again."
            ) from None
        except InputError as cause:
            raise error(f"This is not a {noun} that bitplan can read: {cause}") from None

    @classmethod
    def _error(cls) -> type[InputError]:
        return InputError


def _first_fault(error: ValidationError, content: dict[str, Any]) -> str:
    """The first of the faults: where, and of which layer, what it should be, and what it is."""
    first, *others = error.errors()
    place = ".".join(map(str, first["loc"]))
    if len(first["loc"]) > 1 and isinstance(first["loc"][1], int):
        entry = content[str(first["loc"][0])][first["loc"][1]]
        name = entry.get("layer") if isinstance(entry, dict) else None
        name = name.get("name") if isinstance(name, dict) else name
        place += f" ({name})" if isinstance(name, str) else ""
    what = first["msg"].removeprefix("Value error, ").rstrip(".")
    is_short = isinstance(first["input"], str | int | float | None)
    given = f", but it is {first['input']!r}" if is_short and first["type"] != "value_error" else ""
    more = f" (and {len(others)} more)" if others else ""
    return f"{place + ': ' if place else ''}{what}{given}.{more}"


def digest_of(content: dict[str, Any]) -> str:
    """sha256 over a file's content without its digest."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # A file that was edited may hold half of a surrogate pair.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def json_schema(artefact: type[Artefact]) -> str:
    """The JSON Schema of a file, generated from its class."""
    schema = artefact.model_json_schema(mode="serialization")
    schema["properties"]["digest"] = {
        "type": "string",
        "description": "sha256 over the content without this field: keys sorted, no white space",
    }
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"
