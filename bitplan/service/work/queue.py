"""The queue: ids of jobs by priority, from whoever submits to whoever works.

It is huey's storage: SQLite in a file, so that one machine needs nothing else, or Redis for several
machines, with one interface and priorities in both, and well kept since 2011. (rq needs Redis, as
dramatiq and arq do; celery has no SQLite and procrastinate needs PostgreSQL.) Of huey only that is
used. Its consumer would pickle calls, and whoever can write to the queue could then run code; what
lies here are ids, which the database is asked about.

The queue may lose messages or deliver them twice. The database is the truth: a job is claimed
there, once, and the sweeper sends again what was lost.
"""

import logging
import sqlite3
import time
from typing import Any

from huey import PriorityRedisHuey, SqliteHuey

from bitplan.errors import InputError
from bitplan.files import make_folder
from bitplan.service.records import Job, JobId
from bitplan.service.settings import ServiceSettings

log = logging.getLogger(__name__)

_WAIT_S = 0.2
"""Between looks into a queue that cannot say by itself that something came."""

_PAUSE_S = 2.0
"""After a failure, before the next look."""


class Queue:
    """Ids of jobs, the highest priority first, then the oldest."""

    def __init__(self, storage: Any, errors: tuple[type[Exception], ...]) -> None:
        self._storage = storage
        self._errors = errors

    @classmethod
    def open(cls, settings: ServiceSettings) -> "Queue":
        """SQLite in the service's folder, or the Redis that is named. Raises `InputError`."""
        if settings.redis_url is None:
            file = make_folder(settings.folder) / "queue.db"
            huey = SqliteHuey("bitplan", filename=str(file), timeout=10)
            return cls(huey.storage, (sqlite3.Error,))
        try:
            from redis.exceptions import RedisError
        except ModuleNotFoundError as error:
            raise InputError(
                'A queue in Redis needs the extra redis: pip install "bitplan[service,redis]".'
            ) from error
        try:
            huey = PriorityRedisHuey("bitplan", url=settings.redis_url, read_timeout=1)
        except ValueError as error:
            raise InputError(
                f"The address of Redis cannot be read ({error}). Write redis://host:6379/0."
            ) from error
        return cls(huey.storage, (RedisError, OSError))

    def send(self, job: Job) -> bool:
        """Say that a job waits; False where that failed: the sweeper will say it later."""
        return self.send_id(job.id, job.request.priority)

    def send_id(self, job_id: JobId, priority: int) -> bool:
        """As `send`."""
        try:
            self._storage.enqueue(job_id.encode(), priority=priority)
        except self._errors as error:
            log.warning("The queue took no message (%s); it is sent again later", error)
            return False
        return True

    def take(self) -> JobId | None:
        """The next id, or None after a moment without one."""
        try:
            message = self._storage.dequeue()
        except self._errors as error:
            log.warning("The queue gave no message (%s)", error)
            time.sleep(_PAUSE_S)
            return None
        if message is None:
            if not self._storage.blocking:
                time.sleep(_WAIT_S)
            return None
        return _text(message)

    def ids(self) -> set[JobId] | None:
        """The ids that lie in it; None where it cannot be asked."""
        try:
            return {_text(item) for item in self._storage.enqueued_items()}
        except self._errors as error:
            log.warning("The queue cannot be read (%s)", error)
            return None


def _text(message: bytes) -> str:
    return bytes(message).decode("ascii", "replace")
