"""The whole service as processes: one command, a job, a worker that dies, an end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

WAIT_S = 240.0
"""A process that imports torch on a busy machine."""


class Served:
    def __init__(self, folder, models) -> None:
        command = [sys.executable, "-m", "bitplan.cli", "serve", "--port", "0", "--json"]
        command += ["--folder", str(folder), "--models", str(models), "--texts", "no/such"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
            text=True,
        )
        assert self.process.stdout is not None
        self.news = json.loads(self.process.stdout.readline())
        self.url = self.news["url"]

    def __call__(self, path: str, body: object = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def ended(self, job: str) -> dict:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            found = self(f"/v1/jobs/{job}")
            if found["ended_at"]:
                return found
            time.sleep(0.2)
        raise AssertionError(f"the job has not ended: {found}")

    def workers(self) -> list[int]:
        text = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return [int(line.split()[0]) for line in text.splitlines() if " worker " in line]


@pytest.fixture
def served(tmp_path, tiny_folder) -> Iterator[Served]:
    server = Served(tmp_path / "service", tiny_folder("llama-tied").parent)
    yield server
    server.process.kill()
    server.process.wait()
    assert server.process.stdout is not None
    server.process.stdout.close()


def test_a_job_runs_also_after_its_worker_was_killed(served):
    assert served.news["folders"].startswith("There is no folder no/such. Make it, ")
    body = {"parameters": {"kind": "describe", "model": "tiny-llama-tied"}}
    job = served("/v1/jobs", body)["id"]
    done = served.ended(job)
    assert done["state"] == "succeeded", done
    assert [one["name"] for one in done["artefacts"]] == ["description.json"]
    described = served("/v1/models/description?model=tiny-llama-tied")
    made = served(f"/v1/jobs/{job}/artefacts/description.json")
    assert described["bytes"] == made["bytes"]
    assert described["layers"] == len(made["layers"])

    (worker,) = served.workers()
    os.kill(worker, signal.SIGKILL)
    assert served.ended(served("/v1/jobs", body)["id"])["state"] == "succeeded"
    (other,) = served.workers()
    assert other != worker

    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)


NO_HTTP = (
    b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1",
    b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 40,
)


def test_what_is_no_http_is_a_problem_too(served):
    port = int(served.url.rpartition(":")[2])
    for sent in NO_HTTP:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
            line.sendall(sent + b"\r\n\r\n")
            with line.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), sent
        assert b"content-type: application/problem+json" in head
        told = json.loads(body)
        assert told["status"] == 400
        assert told["request_id"]
    assert served("/healthz")
