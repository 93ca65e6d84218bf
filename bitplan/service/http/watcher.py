"""Tells streams of events that there are new ones: one look at the database a job, not a client."""

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass, field

from bitplan.service.http.threads import in_thread
from bitplan.service.records import Event, JobId
from bitplan.service.store import Jobs

log = logging.getLogger(__name__)

EVERY_S = 0.3
PATIENCE_S = 5.0
PAGE = 500
RECENT = 2000
"""Events of a job that are kept for those who stream it; whoever is behind reads the database."""


@dataclass(eq=False)
class _Feed:
    last: int
    recent: deque[Event] = field(default_factory=lambda: deque(maxlen=RECENT))
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    readers: int = 0
    task: "asyncio.Task[None] | None" = None


class Watcher:
    """Feeds of the jobs that anyone watches."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._feeds: dict[JobId, _Feed] = {}

    @property
    def readers(self) -> int:
        """How many streams there are."""
        return sum(feed.readers for feed in self._feeds.values())

    async def events(self, job_id: JobId, after: int) -> list[Event]:
        """Up to `PAGE` events of a job after a number: waits for one, `PATIENCE_S` at most.

        Whoever calls it is to `join` the job first and to `leave` it in the end.
        """
        feed = self._feeds[job_id]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S), feed.news:
                await feed.news.wait_for(lambda: feed.last > after)
        recent = [event for event in feed.recent if event.number > after]
        if recent and recent[0].number > after + 1:
            return await in_thread(self._jobs.events, job_id, after=after, limit=PAGE)
        return recent[:PAGE]

    async def join(self, job_id: JobId, after: int) -> list[Event]:
        """Begin to watch; gives the first events after a number that there are already."""
        events = await in_thread(self._jobs.events, job_id, after=after, limit=PAGE)
        last = events[-1].number if events else after
        feed = self._feeds.get(job_id)
        if feed is None:
            feed = self._feeds[job_id] = _Feed(last=last)
            feed.task = asyncio.create_task(self._poll(job_id, feed))
        feed.readers += 1
        return events

    def leave(self, job_id: JobId) -> None:
        """End to watch."""
        feed = self._feeds[job_id]
        feed.readers -= 1
        if feed.readers == 0:
            del self._feeds[job_id]
            if feed.task is not None:
                feed.task.cancel()

    def close(self) -> None:
        """Stop looking."""
        for feed in self._feeds.values():
            if feed.task is not None:
                feed.task.cancel()

    async def _poll(self, job_id: JobId, feed: _Feed) -> None:
        while True:
            try:
                events = await in_thread(self._jobs.events, job_id, after=feed.last, limit=PAGE)
            except Exception:
                log.warning("events of %s cannot be read now", job_id, exc_info=True)
                events = []
            if events:
                async with feed.news:
                    feed.recent.extend(events)
                    feed.last = events[-1].number
                    feed.news.notify_all()
            if len(events) < PAGE:
                await asyncio.sleep(EVERY_S)
