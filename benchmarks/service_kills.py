"""Kills -9 of server, workers and jobs' processes at random points: what becomes of the jobs.

python benchmarks/service_kills.py --kills 50

A tiny random llama is measured, allocated and compressed, by `bitplan serve` with one worker on
SQLite, first without disturbance, then with a kill now and then until the number is reached. A
client watches each job over the network meanwhile, and asks for nothing again by itself. Told for
each job: how often it was killed, whether it ended once with the undisturbed bytes, and whether the
client heard each of its events once.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bitplan.service.records import Job, State
from bitplan.service.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # also where PYTHONSAFEPATH leaves it out
from killable_service import Served, Watched, service

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
    "seed": 0,
    "sequences": 24,
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


def wait(store: Store, job_id: str, until_s: float = 1e9) -> Job:
    while not (job := store.jobs.get(job_id)).state.has_ended and time.monotonic() < until_s:
        time.sleep(0.02)
    return job


def seconds(job: Job) -> float:
    assert job.started_at is not None
    assert job.ended_at is not None
    return (job.ended_at - job.started_at).total_seconds()


def digests(job: Job) -> dict[str, str]:
    return {made.name: made.digest for made in job.artefacts}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of a job."""

    job: str
    state: str
    attempts: int
    ends: int
    kills: Counter[str]
    same_bytes: bool
    heard_once: bool

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {what}" for what, count in sorted(self.kills.items()))
        parts = {**vars(self), "kills": kills or "none"}
        return "| " + " | ".join(map(str, parts.values())) + " |"


def undisturbed(folder: Path, models: Path, model: str) -> dict[str, Job]:
    expected = {}
    with service(folder, models) as (store, served):
        for kind in KINDS:
            watched = Watched(served.url, kind, model=model, **SIZES, **KINDS[kind])
            expected[kind] = wait(store, watched.id)
            watched.close()
            assert expected[kind].state is State.SUCCEEDED, expected[kind]
    return expected


def disturbed(
    store: Store, served: Served, watched: Watched, expected: Job, chance: random.Random, most: int
) -> Row:
    """A job at which kills are aimed, each within the time that it takes undisturbed."""
    took_s = seconds(expected)
    kills = Counter[str]()
    while kills.total() < most:
        while served.job() is None and not store.jobs.get(watched.id).state.has_ended:
            time.sleep(0.02)
        if wait(store, watched.id, time.monotonic() + chance.uniform(0, took_s)).state.has_ended:
            break
        what = chance.choices(["job", "worker", "server"], [2, 1, 1])[0]
        kills[what] += served.kill(what)
    job = wait(store, watched.id)
    watched.close()
    events = store.jobs.events(job.id, limit=100_000)
    states = [State(event.data["state"]) for event in events if event.kind == "state"]
    return Row(
        job=job.request.parameters.kind,
        state=job.state.value,
        attempts=job.attempt,
        ends=sum(state.has_ended for state in states),
        kills=kills,
        same_bytes=digests(job) == digests(expected),
        heard_once=watched.numbers == [event.number for event in events],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills -9 at random points.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance, rows = random.Random(arguments.seed), list[Row]()
    kills, outlived = Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        folder, models = Path(name), Path(name) / "models"
        model = make_model(models / "tiny")
        expected = undisturbed(folder / "quiet", models, model)
        print("| " + " | ".join(Row.__dataclass_fields__).replace("_", " ") + " |")
        print("|" + "---|" * len(Row.__dataclass_fields__))
        while kills.total() < arguments.kills:
            # A fresh folder, so that each job has all of its work before it.
            kind, most = list(KINDS)[len(rows) % len(KINDS)], arguments.kills - kills.total()
            with service(folder / f"killed-{len(rows)}", models) as (store, served):
                watched = Watched(served.url, kind, model=model, **SIZES, **KINDS[kind])
                row = disturbed(store, served, watched, expected[kind], chance, min(most, 6))
            print(row, flush=True)
            rows.append(row)
            kills += row.kills
            outlived += served.outlived
    right = sum(row.ends == 1 and row.same_bytes and row.heard_once for row in rows)
    print(
        f"\n{kills['server']} kills of the server, {kills['worker']} of workers, {kills['job']} of "
        f"jobs' processes; {outlived} processes outlived what they belong to; {right} of "
        f"{len(rows)} jobs ended once, with the undisturbed bytes, each event heard once."
    )


if __name__ == "__main__":
    main()
