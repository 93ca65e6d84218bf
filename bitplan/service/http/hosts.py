"""Which names the server answers to when it asks for no token.

A page of any site could have its own name point to this machine and then read what it likes
(DNS rebinding); but the browser still sends the name, and it is not one of this machine's own.
"""

import ipaddress

from starlette.types import ASGIApp, Receive, Scope, Send

from bitplan.service.http.problems import ProblemError


class LoopbackHosts:
    """Refuses requests to any name but the loopback's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] in ("http", "websocket"):
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if not is_loopback(without_port(host)):
                problem = ProblemError(
                    421,
                    "This server asks for no token, so it answers to localhost only. Use that "
                    "name, or start the server with tokens required.",
                )
                await problem.response(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether a name or address is of this machine and no other can reach it."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_port(host: str) -> str:
    """The name or address in a Host header or origin.

    >>> without_port("[::1]:8642"), without_port("localhost:80"), without_port("127.0.0.1")
    ('::1', 'localhost', '127.0.0.1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
