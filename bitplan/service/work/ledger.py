"""What a worker owes the database: events and artefacts, in their order, none lost."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from bitplan.service.records import Artefact
from bitplan.service.store import Claim, Store, StoreUnavailable
from bitplan.service.work.telling import Pace, remark_data

log = logging.getLogger(__name__)

_PAUSE_S = 0.5


class Ledger:
    """Takes the messages of a job's process; what the database refuses now is tried again."""

    def __init__(self, store: Store, claim: Claim) -> None:
        self._store, self._claim = store, claim
        self._pace = Pace()
        self._owed: deque[Callable[[], None]] = deque()

    def take(self, message: dict[str, Any]) -> None:
        """Note what a process said."""
        kind = message.pop("kind")
        if kind == "progress":
            self._pace.take(**message)
            self._progress()
            return
        if kind == "remark":
            if not self._pace.remark(message["stage"], message["text"]):
                return
            message = remark_data(**message)
        self._progress(at_once=True)
        if kind == "artefact":
            artefact = Artefact(**message)
            self._owed.append(lambda: self._store.claims.add_artefact(self._claim, artefact))
        else:
            self._tell(kind, message)

    def settle(self, *, last: bool = False) -> bool:
        """Write what is due; whether nothing is owed. Raises `LeaseLost`."""
        self._progress(at_once=last)
        while self._owed:
            try:
                self._owed[0]()
            except StoreUnavailable as error:
                log.warning("Job %s is told later: %s", self._claim.job.id, error)
                return False
            self._owed.popleft()
        return True

    def close(self, end: Callable[[], bool], *, patience_s: float) -> bool:
        """Write all that is owed, and then the end, for as long as patience lasts.

        Raises `LeaseLost`. After that the job is free by its lease: whoever takes it up finds what
        was made, so that nothing is lost.
        """
        until_s = time.monotonic() + patience_s
        while True:
            if self.settle(last=True):
                try:
                    return end()
                except StoreUnavailable as error:
                    log.warning("The end of job %s is told later: %s", self._claim.job.id, error)
            if time.monotonic() > until_s:
                return False
            time.sleep(_PAUSE_S)

    def _progress(self, *, at_once: bool = False) -> None:
        progress = self._pace.due(at_once=at_once)
        if progress is not None:
            self._tell("progress", progress.model_dump(mode="json"))

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        self._owed.append(lambda: self._store.claims.tell(self._claim, kind, data))
