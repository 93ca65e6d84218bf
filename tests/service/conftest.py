"""A store, requests, and servers of PostgreSQL and Redis where this machine has them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitplan.service.records import JobRequest
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(is_up: Callable[[], bool], process: subprocess.Popen, limit_s: float = 60) -> None:
    until_s = time.monotonic() + limit_s
    while not is_up():
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < until_s, "the server is not up"
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def _running(command: list[str], is_up: Callable[[], bool]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(is_up, process)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL waits for no connection then
        process.wait()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis of this session on loopback, which keeps nothing."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server")
    pytest.importorskip("redis")
    port = _free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    with _running(command, lambda: _listens(port)):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A PostgreSQL of this session on loopback, in a temporary folder."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = shutil.which("postgres") or (str(programs[-1]) if programs else None)
    if found is None:
        pytest.skip("there is no PostgreSQL")
    pytest.importorskip("psycopg")
    as_user: list[str] = []
    # Not in pytest's own folder, whose parents only their owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="bitplan-postgresql-"))
    if os.geteuid() == 0:  # it refuses to run as root
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no setpriv")
        as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        os.chown(folder, 65534, 65534)
    programs, data, port = Path(found).resolve().parent, folder / "data", _free_port()
    make = [str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "bitplan", "--no-sync"]
    subprocess.run([*as_user, *make], check=True, stdout=subprocess.DEVNULL, cwd="/")
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
    ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    with _running(
        [*as_user, str(programs / "postgres"), "-D", str(data), *options],
        lambda: subprocess.run(ready, check=False).returncode == 0,
    ):
        yield f"postgresql://bitplan@127.0.0.1:{port}/postgres"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def service_settings(request, tmp_path) -> ServiceSettings:
    """Settings of an empty service, on each database."""
    if request.param == "sqlite":
        return ServiceSettings(folder=tmp_path / "service")
    url = request.getfixturevalue("postgresql_url")
    return ServiceSettings(folder=tmp_path / "service", database_url=_empty(url))


def _empty(url: str) -> str:
    """A database of its own for one test."""
    import psycopg

    name = f"test_{time.time_ns()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return url.rpartition("/")[0] + f"/{name}"


@pytest.fixture
def store(service_settings) -> Iterator[Store]:
    with contextlib.closing(Store.open(service_settings)) as opened:
        yield opened


@pytest.fixture
def job_request() -> Callable[..., JobRequest]:
    """A request to describe a model; what is given by name is of the request."""

    def make(model: str = "/models/tiny", **more) -> JobRequest:
        return JobRequest.model_validate(
            {"parameters": {"kind": "describe", "model": model}} | more
        )

    return make
