"""One request and its answer, tried again where that is safe and may help."""

import logging
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from bitplan.service.client.backoff import MOST_ASKED_S, asked_pause, pauses
from bitplan.service.client.problems import TRY_LATER, check, parse, unreachable
from bitplan.service.client.steps import Answer, Flow, Lost, Pause, Send

logger = logging.getLogger(__name__)
QUIET_S = 5.0
"""Of waiting for an answer, before a warning says so."""

M = TypeVar("M", bound=BaseModel)


class Calls:
    """Flows of single requests to one service.

    Args:
        server: Its address, for messages.
        patience_s: Seconds for which a request is tried again where there is no answer, or one
            that says: later.
    """

    def __init__(self, server: str, patience_s: float) -> None:
        self.server = server
        self.patience_s = patience_s

    def call(self, send: Send, *, repeatable: bool = True, patience_s: float = 0) -> Flow[Answer]:
        """The answer to a request. Raises `ServiceError` where it is not one of success.

        Args:
            send: The request.
            repeatable: Whether it may be sent twice. One that was surely not received may always.
            patience_s: Of this request, where it is more than the client's.
        """
        waits = pauses(max(patience_s, self.patience_s))
        asked_s, waited_s = 0.0, 0.0
        while True:
            outcome: Answer | Lost = yield send
            is_lost = isinstance(outcome, Lost)
            again = not outcome.was_sent if is_lost else outcome.status == 429
            wait = next(waits, None) if again or repeatable else None
            if is_lost:
                if wait is None:
                    raise unreachable(self.server, outcome)
                is_long = waited_s < QUIET_S <= waited_s + wait
                waited_s += wait
                level = logging.WARNING if is_long else logging.INFO
                logger.log(level, "%s: %s; trying again.", self.server, outcome.reason)
            else:
                if outcome.status not in TRY_LATER:
                    return check(self.server, send, outcome)
                asked = asked_pause(outcome.headers.get("retry-after"))
                if asked is not None and (again or repeatable):
                    asked_s += asked
                    wait = asked if asked_s <= MOST_ASKED_S else None
                if wait is None:
                    return check(self.server, send, outcome)
            yield Pause(seconds=wait)

    def record(self, record: type[M], send: Send, **how: Any) -> Flow[M]:
        """The record that answers a request; further arguments as `call`."""
        return parse(self.server, send, (yield from self.call(send, **how)), record)

    def get(self, record: type[M], path: str, **query: Any) -> Flow[M]:
        """The record at a path; None and empty in the query are left out."""
        send = Send(method="GET", path=path, query=_given(query))
        return (yield from self.record(record, send))

    def post(
        self,
        record: type[M],
        path: str,
        body: bytes = b"{}",
        *,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
    ) -> Flow[M]:
        """The record that answers a JSON body."""
        sent = {"content-type": "application/json", **(headers or {})}
        send = Send(method="POST", path=path, headers=sent, body=body)
        return (yield from self.record(record, send, repeatable=repeatable))


def path_of(*parts: str) -> str:
    """A path below /v1 of names, as they are; a slash in the last is one of a path."""
    *above, last = parts
    return "/".join(["/v1", *(quote(part, safe="") for part in above), quote(last)])


def _given(query: Mapping[str, Any]) -> dict[str, str | int]:
    return {name: value for name, value in query.items() if value not in (None, "")}
