"""A job of the service that measures over a Ray cluster."""

import contextlib
import time
from pathlib import Path

import psutil
import pytest

from bitplan.service.records import State
from ray_cluster import cluster_with_clients, free_port, prepare
from working_service import SMALL, Service, family, worker_process

pytest.importorskip("ray", reason="needs the extra ray")

# Ray leaves files and sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PLANNED = {**SMALL, "budget_gb": 0.00003}
LEAVES_S = 120
"""Ray looks every half a minute which of its clients have left."""


def servers_of_clients() -> list[int]:
    """Processes of the cluster's head that stand for its clients, a process each."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found += [process.pid] if "--mode=specific-server" in process.cmdline() else []
    return found


def test_the_bytes_are_those_of_one_machine_and_a_cancelled_job_leaves_nothing(
    tmp_path, tiny_folder, monkeypatch
):
    prepare(monkeypatch)
    port, model = free_port(), tiny_folder("llama")
    address = f"ray://127.0.0.1:{port}"
    alone = Service(tmp_path / "alone", model)
    with contextlib.closing(alone.store), alone.working():
        expected = alone.ended(alone.submit("allocate", engine="serial", **PLANNED))
    assert expected.state is State.SUCCEEDED, expected
    others = servers_of_clients()
    spread = Service(tmp_path / "spread", Path(model), ray_address=address)
    with cluster_with_clients(port) as cluster, contextlib.closing(spread.store):
        cluster.add_node(num_cpus=1)
        with worker_process(spread.settings) as worker:
            job = spread.ended(spread.submit("allocate", engine=address, **PLANNED))
            assert job.artefacts == expected.artefacts, job
            endless = {**PLANNED, "search_sequences": 64, "refine_tokens": 10**9}
            job_id = spread.submit("allocate", engine=address, **endless)
            spread.wait(
                job_id,
                lambda job: bool(
                    job.progress and job.progress.stage == "refine" and job.progress.done
                ),
            )
            started = family(worker.pid)
            spread.store.jobs.cancel(job_id)
            assert spread.ended(job_id).state is State.CANCELLED
            _, alive = psutil.wait_procs(started, timeout=30)
            # What stays is the worker's own: the process that jobs are copies of, and its like.
            assert {process.pid for process in alive} == {one.pid for one in family(worker.pid)}
        end_s = time.monotonic() + LEAVES_S
        while set(servers_of_clients()) > set(others):
            assert time.monotonic() < end_s, "the cluster still has clients"
            time.sleep(0.5)
