"""How much a request may send: counted as it comes, whatever its headers say."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitplan.service.http.problems import ProblemError

JSON_BYTES = 4_000_000
"""The most that any address takes but those of uploads: it is parsed in the web process."""


class BodyLimit:
    """Refuses bodies that are too large or encoded; a compressed one could be of any size.

    Args:
        app: what is within.
        most_bytes: of any body.
        uploads: path -> the most bytes that may be sent there, which can be more than of JSON.
    """

    def __init__(self, app: ASGIApp, most_bytes: int, uploads: Mapping[str, int]) -> None:
        self.app, self.most_bytes, self.uploads = app, most_bytes, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        most = self.uploads.get(scope["path"], min(self.most_bytes, JSON_BYTES))
        said = headers.get(b"content-length", b"0")
        if not said.isdigit():
            problem = ProblemError(400, "Content-Length is not a number. Send the right one.")
        elif int(said[:20]) > most:
            problem = too_large(most)
        elif headers.get(b"content-encoding", b"identity").lower() != b"identity":
            detail = "Encoded bodies are not taken. Send it without Content-Encoding."
            problem = ProblemError(415, detail)
        else:
            await self.app(scope, _counted(receive, most), send)
            return
        await problem.response(scope, receive, send)


class TooLargeError(HTTPException):
    """A body grew beyond the limit; an `HTTPException`, so that FastAPI lets it pass."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(413, too_large(most_bytes).detail, {"Connection": "close"})


def too_large(most_bytes: int) -> ProblemError:
    """The answer to a body of more bytes than are taken."""
    detail = f"The body has more than the {most_bytes:,} bytes that are taken here. Send less."
    return ProblemError(413, detail, headers={"Connection": "close"})


def _counted(receive: Receive, most_bytes: int) -> Receive:
    count = 0

    async def counting() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > most_bytes:
            raise TooLargeError(most_bytes)
        return message

    return counting
