"""What is no HTTP is refused before there is a request: with a problem, as everything is."""

import secrets
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from bitplan.service.context import set_request_id
from bitplan.service.http.problems import ProblemError

_auto: Any = AutoHTTPProtocol  # one of two classes, by what is installed


class Protocol(_auto):
    """uvicorn's own, but for that."""

    def send_400_response(self, msg: str) -> None:
        """Say so, and end the connection, whose next bytes mean nothing."""
        set_request_id(secrets.token_hex(8))
        refused = ProblemError(
            400, "That is not an HTTP request: its first line or a header is malformed. Send HTTP."
        ).response
        lines = [b"HTTP/1.1 400 Bad Request", b"connection: close"]
        lines += [name + b": " + value for name, value in refused.raw_headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(refused.body))
        self.transport.close()
