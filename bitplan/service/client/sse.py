"""Server-sent events, read from bytes as they come.

Source: WHATWG HTML, 9.2 Server-sent events.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bitplan.errors import ServiceError

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a \r at the end may be half of a \r\n
_MOST_BYTES = 16_000_000


@dataclass(frozen=True, kw_only=True)
class Message:
    """One event of a stream."""

    kind: str = "message"
    data: str = ""
    id: str = ""


class Parser:
    """Turns chunks of a stream, cut anywhere, into messages."""

    def __init__(self) -> None:
        self._rest = [b""]  # of a line whose end has not come
        self._size = 0  # of the message's lines so far
        self._fields: dict[str, str] = {}
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """The messages that a chunk ends. Raises `ServiceError` for one beyond all measure."""
        self._rest.append(chunk)
        lines: list[bytes] = []
        # A long line in many chunks is joined once.
        if b"\n" in chunk or b"\r" in chunk or self._rest[0].endswith(b"\r"):
            *lines, rest = _LINE_END.split(b"".join(self._rest))
            self._rest = [rest]
        if self._size + sum(map(len, self._rest)) > _MOST_BYTES:
            raise ServiceError(
                f"The service sent an event of more than {_MOST_BYTES:,} bytes. Check the address."
            )
        for line in lines:
            message = self._take(line.decode("utf-8", "replace"))
            if message is not None:
                yield message

    def _take(self, line: str) -> Message | None:
        self._size += len(line)
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                self._data.append(value)
            elif name:  # without a name it is a comment, which keeps the line open
                self._fields[name] = value
            return None
        fields, data = self._fields, self._data
        self._fields, self._data, self._size = {}, [], 0
        if not data:
            return None
        return Message(
            kind=fields.get("event", "message"), data="\n".join(data), id=fields.get("id", "")
        )
