"""Around every request: an id, a line in the log, figures for Prometheus, and no traceback out."""

import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitplan.service.context import request_id, set_job_id, set_request_id
from bitplan.service.http.metrics import Metrics
from bitplan.service.http.problems import unexpected

log = logging.getLogger("bitplan.service.access")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADER = b"x-request-id"


class Requests:
    """The outermost middleware.

    A request id that is given and plain is kept, so that a proxy's log and ours agree; the answer
    always has it.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(_HEADER, b"").decode("latin-1")
        set_request_id(given if _ID.fullmatch(given) else secrets.token_hex(8))
        set_job_id("")
        status = 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (_HEADER, request_id().encode()),
                ]
            await send(message)

        start = time.perf_counter()
        try:
            await self.app(scope, receive, tell)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if status:
                raise  # half of an answer is out: the connection must break
            await unexpected().response(scope, receive, tell)
        finally:
            self._record(scope, status, time.perf_counter() - start)

    def _record(self, scope: Scope, status: int, duration_s: float) -> None:
        template = template_of(scope)
        self.metrics.request(scope["method"], template, status, duration_s)
        # Addresses that are asked for all the time, by machines.
        level = logging.DEBUG if template in QUIET and status < 500 else logging.INFO
        if log.isEnabledFor(level):
            caller = scope.get("state", {}).get("caller")
            fields = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_ms": round(1000 * duration_s, 1),
                "caller": caller.name if caller else None,
                "address": address_of(scope),
            }
            text = "{method} {path} {status} {duration_ms} ms".format(**fields)
            log.log(level, "%s", text, extra=fields)


def template_of(scope: Scope) -> str:
    """The address with its variables unfilled, as /v1/jobs/{job_id}: few, whatever is asked for."""
    route = scope.get("route")
    return getattr(route, "path", None) or "unmatched"


def address_of(scope: Scope) -> str:
    """Of whoever asks, as the server sees it."""
    client = scope.get("client")
    return client[0] if client else "unknown"


QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
