"""Headers that make browsers careful, on every answer that does not set its own."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# plotly sets styles in elements; scripts come from files of this server alone.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
FILE_POLICY = "sandbox; default-src 'none'"
"""Of files that jobs made: opened in a browser they do nothing."""

REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:"
)
"""Of reports, which are pages: an origin of their own, so no cookie, and nothing fetched."""

HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class SecurityHeaders:
    """Adds what an answer lacks; answers of the API are kept by no cache."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        wanted = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
        if scope["path"].startswith("/v1/"):
            wanted.append((b"cache-control", b"no-store"))
        if scope["scheme"] == "https":
            wanted.append((b"strict-transport-security", b"max-age=31536000"))

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                has = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    *(header for header in wanted if header[0] not in has),
                ]
            await send(message)

        await self.app(scope, receive, tell)
