"""Now and then: jobs of dead workers are freed, lost messages sent again, old folders removed."""

import logging
import time

from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store
from bitplan.service.work.folders import Folders
from bitplan.service.work.queue import Queue

log = logging.getLogger(__name__)

_FOLDERS_EVERY_S = 3600.0


class Sweeper:
    """Puts right what kills and failures left. Any number of them may be at it."""

    def __init__(self, store: Store, queue: Queue, settings: ServiceSettings) -> None:
        self._store, self._queue, self._settings = store, queue, settings
        self._folders = Folders(settings.work_folder)
        self._next_folders_s = time.monotonic()

    def sweep(self) -> None:
        """Do all of it. Raises `StoreUnavailable`."""
        self._store.database.keep_reserve()
        for job_id in self._store.claims.overdue():
            log.warning("Job %s is free: its worker was heard of no more", job_id)
        self.send_forgotten()
        if time.monotonic() >= self._next_folders_s:
            self._next_folders_s = time.monotonic() + _FOLDERS_EVERY_S
            self._folders.remove_old(self._settings.keep_days)

    def send_forgotten(self) -> None:
        """Queue the jobs that wait and of which the queue knows nothing."""
        sent = self._queue.ids()
        if sent is None:
            return
        for job_id, priority in self._store.jobs.queued().items():
            if job_id not in sent:
                self._queue.send_id(job_id, priority)
