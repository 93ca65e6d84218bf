"""How quickly the service answers many clients while a job runs.

python benchmarks/service_load.py --clients 64 --seconds 60

Starts a server with one worker on a small random model and keeps measuring jobs in its queue. Each
client looks at a page of jobs, at one job, or solves a table for a budget, and pauses as people and
scripts do; one request in twenty submits a job. Prints a row of JSON: counts, errors, and quantiles
in milliseconds for each sort of request.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import transformers

PAUSE_S = 0.25
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=PAUSE_S, help="mean, between two requests")
    parser.add_argument("--table", type=Path, help="a cost table to solve")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url:
        took, errors, states = asyncio.run(load(url, options))
    row = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "clients": options.clients,
        "seconds": options.seconds,
        "pause_s": options.pause,
        "errors": dict(errors),
        "jobs": states,
        **{name: quantiles(each) for name, each in sorted(took.items())},
    }
    print(json.dumps(row, indent=2))


def quantiles(took_s: list[float]) -> dict[str, float]:
    p50, p99 = np.quantile(took_s, [0.5, 0.99])
    return {
        "requests": len(took_s),
        "p50_ms": round(1000 * float(p50), 1),
        "p99_ms": round(1000 * float(p99), 1),
        "max_ms": round(1000 * max(took_s), 1),
    }


@contextmanager
def served(folder: Path) -> Iterator[str]:
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    model.to(torch.bfloat16).save_pretrained(folder / "models" / "small")
    command = [sys.executable, "-m", "bitplan.cli", "serve", "--json", "--port", "0"]
    command += ["--folder", str(folder / "service"), "--models", str(folder / "models")]
    rates = {f"BITPLAN_SERVICE_{name}_RATE": "1000000/minute" for name in ("READ", "SUBMIT")}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        env={**os.environ, **rates, "BITPLAN_SERVICE_LOG_LEVEL": "WARNING"},
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait()


async def load(
    url: str, options: argparse.Namespace
) -> tuple[dict[str, list[float]], Counter[str], dict[str, int]]:
    took: dict[str, list[float]] = defaultdict(list)
    errors: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=options.clients, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        first = (await submit(client, "measure")).json()["id"]
        table = None
        if options.table:
            sent = await client.post("/v1/tables", content=options.table.read_bytes())
            table = sent.raise_for_status().json()["digest"]
            await client.post("/v1/plans", json={"table": table, "budget_gb": 1.0})
        while (await client.get(f"/v1/jobs/{first}")).json()["state"] == "queued":
            await asyncio.sleep(0.2)
        end = time.monotonic() + options.seconds
        clients = [
            visit(client, random.Random(seed), first, table, options.pause, end, took, errors)
            for seed in range(options.clients)
        ]
        await asyncio.gather(*clients)
        jobs = (await client.get("/v1/jobs?limit=200")).json()["jobs"]
    return took, errors, dict(Counter(job["state"] for job in jobs))


async def visit(
    client: httpx.AsyncClient,
    chance: random.Random,
    job: str,
    table: str | None,
    pause_s: float,
    end: float,
    took: dict[str, list[float]],
    errors: Counter[str],
) -> None:
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(0, 2 * pause_s))
        draw = chance.random()
        start = time.perf_counter()
        try:
            if draw < 0.05:
                sort, answer = (
                    "submit",
                    await submit(client, chance.choice(["describe", "measure"])),
                )
            elif draw < 0.10 and table is not None:
                body = {"table": table, "budget_gb": chance.uniform(0.045, 0.1)}
                sort, answer = "solve", await client.post("/v1/plans", json=body)
            elif draw < 0.5:
                sort, answer = "read jobs", await client.get("/v1/jobs?limit=20")
            else:
                sort, answer = "read one", await client.get(f"/v1/jobs/{job}")
        except httpx.HTTPError as error:
            errors[type(error).__name__] += 1
            continue
        took[sort].append(time.perf_counter() - start)
        if answer.status_code >= 400:
            errors[f"{sort} {answer.status_code}"] += 1


async def submit(client: httpx.AsyncClient, kind: str) -> httpx.Response:
    return await client.post("/v1/jobs", json={"parameters": {"kind": kind, "model": "small"}})


if __name__ == "__main__":
    main()
