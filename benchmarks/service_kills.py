"""Kills -9 of workers and of jobs' processes at random points: what becomes of the jobs.

python benchmarks/service_kills.py --kills 50

A tiny random llama is measured, allocated and compressed, by one worker on SQLite, first without
disturbance, then with a kill now and then until the number is reached. Told for each kind of job:
how many jobs, how often they were killed, and whether each ended once with the undisturbed bytes.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bitplan.service.records import Job, JobRequest, State
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store
from bitplan.service.work import Queue

CONFIG: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SIZES = {
    "schemes": ["int2", "int4", "bf16"],
    "search_sequences": 2,
    "held_out_sequences": 2,
    "length": 16,
}
KINDS = {"measure": {}, "allocate": {"budget_gb": 3e-5}, "compress": {"budget_gb": 3e-5}}


def make_model(folder: Path) -> str:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**CONFIG))
    model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


class Killed:
    """A worker process that is started again whenever it was killed."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "BITPLAN_SERVICE_FOLDER": str(settings.folder),
            "BITPLAN_SERVICE_LEASE_S": str(settings.lease_s),
            "BITPLAN_SERVICE_MODEL_FOLDERS": os.pathsep.join(map(str, settings.model_folders)),
            "BITPLAN_SERVICE_MOST_DEATHS": str(settings.most_deaths),
        }
        self.start()

    def start(self) -> None:
        """Start one."""
        command = [sys.executable, "-m", "bitplan.service.work", "--with-stdin"]
        self.process = subprocess.Popen(command, env=self._environment, stdin=subprocess.PIPE)

    def jobs(self) -> list[psutil.Process]:
        """The processes of jobs: those that lead a session."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(ProcessLookupError):
                found += [process] if os.getsid(process.pid) == process.pid else []
        return found

    def kill_job(self) -> bool:
        """Kill the process of a job; whether there was one."""
        for process in self.jobs():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                return True
        return False

    def kill_worker(self) -> list[psutil.Process]:
        """Kill it and start another; gives those of its processes that outlived it."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.close()
        _, alive = psutil.wait_procs(family, timeout=20)
        self.start()
        return alive

    def close(self) -> None:
        """Kill it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def service(folder: Path) -> Iterator[tuple[Store, Queue, Killed]]:
    settings = ServiceSettings(
        folder=folder, model_folders=(folder.parent,), lease_s=6, most_deaths=10_000
    )
    store, queue, worker = Store.open(settings), Queue.open(settings), Killed(settings)
    try:
        yield store, queue, worker
    finally:
        worker.close()
        store.close()


def submit(store: Store, queue: Queue, kind: str, model: str, seed: int) -> str:
    parameters = {"kind": kind, "model": model, "seed": seed, "sequences": 24, **SIZES}
    request = JobRequest.model_validate({"parameters": parameters | KINDS[kind]})
    job, _ = store.jobs.submit(request, owner="benchmark")
    queue.send(job)
    return job.id


def wait(store: Store, job_id: str, until_s: float = 1e9) -> Job:
    while not (job := store.jobs.get(job_id)).state.has_ended and time.monotonic() < until_s:
        time.sleep(0.02)
    return job


def digests(job: Job) -> dict[str, str]:
    return {made.name: made.digest for made in job.artefacts}


def ends(store: Store, job_id: str) -> int:
    states = [event.data.get("state") for event in store.jobs.events(job_id, limit=100_000)]
    return sum(State(state).has_ended for state in states if state)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills -9 at random points.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    rows, kills, outlived = [], {"worker": 0, "job": 0}, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder / "model")
        with service(folder / "quiet") as (quiet, quiet_queue, _):
            ids = {kind: submit(quiet, quiet_queue, kind, model, 0) for kind in KINDS}
            expected = {kind: wait(quiet, job_id) for kind, job_id in ids.items()}
        for job in expected.values():
            assert job.state is State.SUCCEEDED, job
        turn = 0
        while sum(kills.values()) < arguments.kills:
            # A fresh folder, so that each job has all of its work before it.
            kind = list(KINDS)[turn % len(KINDS)]
            before = sum(kills.values())
            with service(folder / f"killed-{turn}") as (store, queue, worker):
                job_id = submit(store, queue, kind, model, 0)
                while sum(kills.values()) < arguments.kills and sum(kills.values()) - before < 6:
                    while not worker.jobs() and not store.jobs.get(job_id).state.has_ended:
                        time.sleep(0.02)
                    if wait(store, job_id, time.monotonic() + chance.uniform(0, 3)).state.has_ended:
                        break
                    if chance.random() < 0.3:
                        outlived += len(worker.kill_worker())
                        kills["worker"] += 1
                    else:
                        kills["job"] += worker.kill_job()
                job = wait(store, job_id)
                same = digests(job) == digests(expected[kind])
                killed = sum(kills.values()) - before
                ended = ends(store, job_id)
                rows.append((kind, job.state.value, job.attempt, ended, killed, same))
            print(f"{kind}: {rows[-1]}", flush=True)
            turn += 1
    print("\n| job | state | attempts | ends | kills | same bytes |\n|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(
        f"\n{kills['worker']} kills of workers, {kills['job']} of jobs' processes; {outlived} "
        f"processes outlived their worker; {sum(row[3] == 1 and row[5] for row in rows)} of "
        f"{len(rows)} jobs ended once with the undisturbed bytes."
    )


if __name__ == "__main__":
    main()
