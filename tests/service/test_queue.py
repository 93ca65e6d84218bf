"""The queue in SQLite and in Redis: by priority, then by age; what is lost is sent again."""

import contextlib
import os
import time

import pytest

from bitplan.errors import InputError
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store
from bitplan.service.work.folders import Folders
from bitplan.service.work.queue import Queue
from bitplan.service.work.sweeper import Sweeper


@pytest.fixture(params=["sqlite", "redis"])
def settings(request, tmp_path) -> ServiceSettings:
    url = None
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        import redis

        redis.Redis.from_url(url).flushdb()
    return ServiceSettings(folder=tmp_path, redis_url=url, lease_s=0.01)


def test_priority_comes_first_and_then_age(settings, job_request):
    queue = Queue.open(settings)
    with contextlib.closing(Store.open(settings)) as store:
        jobs = {}
        for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", -3), ("e", 5)):
            jobs[name], _ = store.jobs.submit(job_request(priority=priority), owner="ann")
            assert queue.send(jobs[name])
    # By another connection, as another process has it.
    taken = [Queue.open(settings).take() for _ in range(6)]
    assert taken == [*(jobs[name].id for name in "beacd"), None]


def test_the_sweeper_sends_what_was_lost_and_no_more(settings, job_request):
    queue = Queue.open(settings)
    with contextlib.closing(Store.open(settings)) as store:
        sweeper = Sweeper(store, queue, settings)
        first, _ = store.jobs.submit(job_request(), owner="ann")
        second, _ = store.jobs.submit(job_request(), owner="ann")
        queue.send(second)
        for _ in range(2):
            sweeper.sweep()
        assert [queue.take(), queue.take()] == [second.id, first.id]
        assert queue.ids() == set()
        claim = store.claims.claim(first.id, "w")
        store.jobs.cancel(second.id)
        assert claim is not None
        sweeper.send_forgotten()
        assert queue.ids() == set()
        time.sleep(0.05)
        sweeper.sweep()
        assert queue.take() == first.id


def test_a_queue_that_is_not_to_be_had_loses_nothing(tmp_path, job_request, caplog):
    down = ServiceSettings(folder=tmp_path, redis_url="redis://127.0.0.1:1/0")
    queue = Queue.open(down)
    with contextlib.closing(Store.open(down)) as store:
        job, _ = store.jobs.submit(job_request(), owner="ann")
        assert not queue.send(job)
        assert queue.ids() is None
        assert "sent again later" in caplog.text
        up = Queue.open(down.model_copy(update={"redis_url": None}))
        Sweeper(store, up, down).sweep()
        assert up.take() == job.id
    with pytest.raises(InputError, match="address of Redis"):
        Queue.open(ServiceSettings(folder=tmp_path, redis_url="http://x"))


def test_old_work_folders_go_unless_somebody_uses_them(tmp_path, job_request):
    folders = Folders(tmp_path / "work")
    with contextlib.closing(Store.open(ServiceSettings(folder=tmp_path))) as store:
        jobs = [store.jobs.submit(job_request(name), owner="ann")[0] for name in "abc"]
        paths = []
        for job in jobs:
            with folders.use(job) as path:
                (path / "file").write_bytes(bytes(100_000))
                paths.append(path)
        for path in paths[:2]:
            os.utime(path.with_suffix(".lock"), (0, 0))
        with folders.use(jobs[1], limit_gb=1):
            os.utime(paths[1].with_suffix(".lock"), (0, 0))
            assert folders.remove_old(keep_days=1) == [paths[0]]
            with folders.use(jobs[1], limit_gb=0.00001) as path:
                assert list(path.iterdir()), "somebody else uses it"
        with folders.use(jobs[1], limit_gb=0.00001) as path:
            assert not list(path.iterdir()), "it was over the limit"
