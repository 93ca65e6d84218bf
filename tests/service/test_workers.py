"""Workers and the processes of jobs: ends, limits, cancelling, kills. Real jobs on a tiny model."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bitplan.errors import InputError
from bitplan.export import load_plan
from bitplan.schema import Plan
from bitplan.service.records import JobRequest, State
from bitplan.service.settings import ServiceSettings
from bitplan.service.work import check
from bitplan.service.work.folders import Folders
from working_service import ENDLESS, SMALL, Service, family, runs_and_tells, worker_process


@pytest.fixture
def service(tmp_path, tiny_folder) -> Iterator[Service]:
    made = Service(tmp_path, tiny_folder("llama"))
    with contextlib.closing(made.store):
        yield made


def test_plans_are_made_and_applied(service):
    with service.working():
        job = service.ended(service.submit("allocate", budget_gb=0.00003, **SMALL))
        assert job.state is State.SUCCEEDED
        made = {artefact.name: artefact for artefact in job.artefacts}
        assert set(made) == {"costs.json", "plan.json", "report.html"}
        assert made["report.html"].media_type == "text/html"
        place = service.store.artefacts.path(made["plan.json"].digest)
        plan = Plan.load(place)
        assert plan.bytes <= 30_000
        applied = service.ended(service.submit("apply", plan=made["plan.json"].digest))
    assert applied.state is State.SUCCEEDED
    for artefact in applied.artefacts:
        target = service.settings.folder / "fetched" / artefact.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(service.store.artefacts.path(artefact.digest).read_bytes())
        assert target.stat().st_size == artefact.bytes
    assert load_plan(service.settings.folder / "fetched/model") == plan
    kinds = [event.kind for event in service.store.jobs.events(job.id)]
    assert {"state", "progress", "remark", "artefact"} <= set(kinds)


def test_what_cannot_be_done_is_the_fault_of_the_request(service):
    with service.working():
        job = service.ended(service.submit("allocate", budget_gb=1e-8, **SMALL))
    assert job.fault is not None
    assert (job.state, job.fault.kind, job.fault.is_input) == (
        *(State.FAILED, "InfeasibleError", True),
    )
    assert "the smallest plan needs" in job.fault.message


def test_a_worker_that_stops_gives_its_job_back_and_cancelling_ends_it(service):
    job_id = service.submit(**ENDLESS)
    with service.working():
        service.wait(job_id, runs_and_tells)
    assert service.store.jobs.get(job_id).state is State.QUEUED
    with service.working():
        assert service.wait(job_id, runs_and_tells).attempt == 2
        service.store.jobs.cancel(job_id)
        assert service.ended(job_id).state is State.CANCELLED
    assert service.states(job_id) == ["queued", "running", "queued", "running", "cancelled"]


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        ({"time_s": 0.5}, "TimeLimitError"),
        ({"memory_gb": 0.01}, "MemoryLimitError"),
        ({"disk_gb": 0.001}, "DiskLimitError"),
    ],
)
def test_a_job_that_is_over_a_limit_has_failed(service, limits, kind):
    job_id = service.submit(**ENDLESS, limits=limits)
    job = service.store.jobs.get(job_id)
    # What somebody else uses is not emptied when the job begins.
    with Folders(service.settings.work_folder).use(job) as folder:
        (folder / "left").write_bytes(bytes(2_000_000))
        with service.working():
            job = service.ended(job_id)
    assert job.fault is not None, job
    assert (job.state, job.fault.kind, job.fault.is_input) == (State.FAILED, kind, True)
    assert job.artefacts == ()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A folder on a disk of its own, of 32 MB, which root may make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("no disk can be made here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("shared", ["all", "work"])
def test_a_job_that_fills_the_disk_has_failed_and_goes_on_when_there_is_room(
    shared, small_disk, tmp_path, tiny_folder
):
    """All of the service on that disk, the database too, or the jobs' work alone."""
    folder = small_disk if shared == "all" else tmp_path / "service"
    if shared == "work":
        folder.mkdir()
        (folder / "work").symlink_to(small_disk)
    service = Service(folder, tiny_folder("llama"))
    with contextlib.closing(service.store), service.working():
        job_id = service.submit("allocate", budget_gb=0.00003, **SMALL)
        fill = small_disk / "else"
        fill.write_bytes(bytes(shutil.disk_usage(small_disk).free - 300_000))
        job = service.ended(job_id)
        assert job.fault is not None, job
        assert (job.state, job.fault.kind, job.fault.is_input, job.attempt) == (
            *(State.FAILED, "OutputError", False, 1),
        )
        assert job.fault.message.startswith("The disk is full: ")
        logs = [event.data for event in service.store.jobs.events(job_id) if event.kind == "log"]
        assert any(os.strerror(errno.ENOSPC) in log["message"] for log in logs)
        if shared == "all":
            assert service.ended(service.submit()).attempt == 1
        fill.unlink()
        assert service.queue.send(service.store.jobs.retry(job_id))
        again = service.ended(job_id)
    assert again.state is State.SUCCEEDED, again
    assert {artefact.name for artefact in again.artefacts} >= {"costs.json", "plan.json"}


def job_processes(worker: int) -> list[psutil.Process]:
    """Those that lead a session of their own."""
    found = []
    for process in family(worker):
        with contextlib.suppress(ProcessLookupError):
            found += [process] if os.getsid(process.pid) == process.pid else []
    return found


def test_kills_of_processes_and_workers_lose_nothing_and_change_no_byte(service, tmp_path):
    parameters = {"budget_gb": 0.00003, **SMALL, "sequences": 24}
    undisturbed = Service(tmp_path / "undisturbed", Path(service.model))
    with contextlib.closing(undisturbed.store), undisturbed.working():
        expected = undisturbed.ended(undisturbed.submit("compress", **parameters))
    assert expected.state is State.SUCCEEDED, expected
    assert expected.started_at is not None
    assert expected.ended_at is not None
    # Not how long it waited for a worker: kills must come while the job runs.
    took_s = (expected.ended_at - expected.started_at).total_seconds()
    chance = random.Random(0)
    job_id = service.submit("compress", **parameters)
    with worker_process(service.settings) as worker:
        for attempt in (1, 2):
            service.wait(job_id, lambda job, a=attempt: runs_and_tells(job) and job.attempt == a)
            time.sleep(chance.uniform(0, 0.2) * took_s)
            (running,) = job_processes(worker.pid)
            running.kill()
        service.wait(job_id, lambda job: runs_and_tells(job) and job.attempt == 3)
        time.sleep(chance.uniform(0, 0.2) * took_s)
        started = family(worker.pid)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive, "a job's process has outlived its worker"
    assert service.store.jobs.get(job_id).state is State.RUNNING
    with service.working():
        job = service.ended(job_id)
    assert job.artefacts == expected.artefacts
    assert service.states(job_id).count("succeeded") == 1
    assert job.attempt == 4


def test_a_model_that_is_a_link_out_by_now_is_not_loaded(service, tmp_path):
    """What was allowed when the job was submitted is looked at again when it begins."""
    allowed = Path(service.model).parent
    link = allowed / f"link-{tmp_path.name}"
    link.symlink_to(tmp_path)
    parameters = {"kind": "describe", "model": str(link)}
    job, _ = service.store.jobs.submit(
        JobRequest.model_validate({"parameters": parameters}), owner="ann"
    )
    assert service.queue.send(job)
    with service.working():
        ended = service.ended(job.id)
    assert ended.state is State.FAILED
    assert ended.fault is not None
    assert ended.fault.kind == "NotAllowed"
    assert ended.fault.is_input


@pytest.mark.parametrize(
    ("parameters", "limits", "what"),
    [
        ({"kind": "measure", "schemes": ["int99"]}, {}, "int99"),
        ({"kind": "measure", "engine": "ray://elsewhere:1"}, {}, "not one of this service's"),
        ({"kind": "allocate", "budget_gb": 1, "solver": "magic"}, {}, "magic"),
        ({"kind": "allocate", "budget_gb": 1, "preset": "magic"}, {}, "magic"),
        ({"kind": "allocate", "budget_gb": 1, "search": "magic"}, {}, "magic"),
        ({"kind": "describe", "dtype": "int3"}, {}, "not a dtype"),
        ({"kind": "measure", "dtype": "int3"}, {}, "not a dtype"),
        ({"kind": "measure", "estimator": "guess"}, {}, "no estimator 'guess'"),
        ({"kind": "measure", "quantizer": "magic"}, {}, "no quantizer 'magic'"),
        ({"kind": "measure", "transform": "magic"}, {}, "no transform 'magic'"),
        ({"kind": "measure", "through": "magic"}, {}, "no way through a model"),
        ({"kind": "measure", "experts": "all"}, {}, "experts is 'all'"),
        ({"kind": "measure", "workers": 100_000}, {}, "100000 workers were asked for"),
        ({"kind": "allocate", "budget_gb": 1, "constraints": {"floors": {"*": "x"}}}, {}, "x"),
        ({"kind": "describe"}, {"memory_gb": 9}, "asks for 9 GB of memory"),
    ],
)
def test_requests_are_checked_before_a_model_is_loaded(tmp_path, parameters, limits, what):
    settings = ServiceSettings(folder=tmp_path, memory_limit_gb=8)
    request = JobRequest.model_validate(
        {"parameters": {"model": "/nowhere"} | parameters, "limits": limits}
    )
    with pytest.raises(InputError, match=what):
        check(request, settings)
