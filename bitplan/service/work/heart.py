"""The heartbeat of a claimed job: in a thread of its own, whatever its worker is about."""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from bitplan.service.store import Claim, LeaseLost, Store, StoreUnavailable

log = logging.getLogger(__name__)

_MOST_S = 1.0
"""Between beats: so quickly a wish to cancel is heard."""


class Heart:
    """Beats from the block's begin to its end, and hears what the database says."""

    def __init__(self, store: Store, claim: Claim, *, lease_s: float) -> None:
        self.is_cancelling = False
        self.is_lost = False
        self._store, self._claim = store, claim
        self._every_s = min(_MOST_S, lease_s / 4)
        self._began_s = time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    @property
    def ran_s(self) -> float:
        """Seconds that this attempt has run."""
        return time.monotonic() - self._began_s

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._is_over.wait(self._every_s):
            try:
                self.is_cancelling |= self._store.claims.beat(self._claim, ran_s=self.ran_s)
            except LeaseLost:
                self.is_lost = True
                return
            except StoreUnavailable as error:
                log.warning("No beat of job %s: %s", self._claim.job.id, error)
