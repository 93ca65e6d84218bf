"""`bitplan serve` as a process that can be killed, and jobs on it that a client watches."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bitplan import Client
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store


class Served:
    """`bitplan serve` as a process that is started again on its port whenever it was killed."""

    def __init__(self, folder: Path, models: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "bitplan.cli", "serve", "--port", str(port)]
        self._command += ["--folder", str(folder), "--models", str(models)]
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "BITPLAN_SERVICE_LEASE_S": "6",
            "BITPLAN_SERVICE_MOST_DEATHS": "10000",
            "BITPLAN_SERVICE_LOG_LEVEL": "ERROR",
        }
        self.outlived = 0
        self.start()

    def start(self) -> None:
        """Start one."""
        self.process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.DEVNULL
        )

    def worker(self) -> psutil.Process | None:
        """Its worker's process, if there is one now."""
        for process in _children(self.process.pid):
            with contextlib.suppress(psutil.Error):
                if "worker" in process.cmdline():
                    return process
        return None

    def job(self) -> psutil.Process | None:
        """The process of a job, which leads a session, if there is one now."""
        worker = self.worker()
        for process in _children(worker.pid, recursive=True) if worker else ():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(process.pid) == process.pid:
                    return process
        return None

    def kill(self, what: str) -> bool:
        """Kill its job, its worker or itself; whether there was one."""
        process = {"job": self.job, "worker": self.worker, "server": self._itself}[what]()
        if process is None:
            return False
        family = _children(process.pid, recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        if what == "server":
            self.process.wait()
            self.start()
        _, alive = psutil.wait_procs(family, timeout=30)
        self.outlived += len(alive)
        return True

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait()

    def _itself(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


def _children(process: int, *, recursive: bool = False) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process).children(recursive=recursive)
    return []


class Watched:
    """A job that a client submits and watches, in a thread, from its first event to its last."""

    def __init__(self, url: str, kind: str, **given: Any) -> None:
        self._client = Client(url, patience_s=120)
        self.id = self._client.submit(kind, **given).id
        self.numbers: list[int] = []
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        self.numbers += [event.number for event in self._client.watch(self.id)]

    def close(self) -> None:
        """Wait until it has heard all."""
        self._thread.join()
        self._client.close()


@contextlib.contextmanager
def service(folder: Path, models: Path) -> Iterator[tuple[Store, Served]]:
    store, served = Store.open(ServiceSettings(folder=folder)), Served(folder, models)
    try:
        yield store, served
    finally:
        served.close()
        store.close()
