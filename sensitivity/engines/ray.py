"""Tasks on a Ray cluster: this machine alone, or many."""

import contextlib
import importlib.util
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bitplan.errors import EngineError
from bitplan.sensitivity.engines.engine import AbstractEngine, R, Room, T
from bitplan.sensitivity.engines.parcel import call, result_of, wrap

RETRIES = 10
"""How many nodes or workers one task may take with it."""

PATIENCE_S = 120.0
"""How long a cluster may take to let this machine join. A client server starts a process for each
client, which on busy cores takes it more than a minute."""

JOINS = 3
"""How often that is tried: a client server now and then starts a process that never answers."""

SCHEME = "ray://"


class Ray(AbstractEngine):
    """Ray's tasks, each on one core. Needs `pip install 'bitplan[ray]'`, on every node.

    `address` is ray://host:port of a client server, or host:port of a cluster that this machine is
    part of; without one, a cluster of this machine is joined or started. Nodes must have the same
    versions and the same kind of processor for tables that are the same to the last bit.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        check_installed()
        self.address, self.workers, self.patience_s = address, workers, patience_s
        self._was_connected = False

    def start(self) -> None:
        """Connect; raises `EngineError` where that is not possible."""
        import ray

        self._was_connected = ray.is_initialized()
        if not self._was_connected:
            _connect(self.address, self.patience_s)

    def stop(self) -> None:
        """Disconnect, and stop the cluster if it was started here."""
        import ray

        if not self._was_connected:
            ray.shutdown()

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """The results as they come. What a dead node was about is done again."""
        import ray

        remote = ray.remote(num_cpus=1, max_retries=RETRIES)(call)
        sizes: dict[Any, int] = {}
        room = Room(self.workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1))))
        drawn = iter(tasks)
        while True:
            while room.is_left and (task := next(drawn, None)) is not None:
                parcel = wrap((function, task))
                room.take(len(parcel))
                sizes[remote.remote(parcel)] = len(parcel)
            if not sizes:
                return
            [done], _ = ray.wait(list(sizes), num_returns=1)
            room.give(sizes.pop(done))
            yield result_of(_get(done))


def check_installed() -> None:
    """Raise `EngineError` where Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise EngineError(
            "The engine ray needs Ray, which is not installed. Run: pip install 'bitplan[ray]', or "
            "choose another engine."
        )


def _get(reference: Any) -> bytes:
    import ray
    import ray.exceptions

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"The Ray cluster lost a task {RETRIES + 1} times, or itself: {first} Look at its "
            "nodes with `ray status`. What was done is kept: the same command goes on from there."
        ) from error


def _connect(address: str | None, patience_s: float) -> None:
    import ray

    # A cluster that is there already has its own dashboard.
    options: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    if address is not None:
        _check_reachable(address)
        _check_joinable(address, patience_s)
    try:
        ray.init(address=address, log_to_driver=False, **options)
    except (OSError, RuntimeError, ValueError) as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        raise EngineError(f"Ray does not start here: {str(error).strip()}") from error


def _check_reachable(address: str) -> None:
    host, _, port = address.removeprefix(SCHEME).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EngineError(f"Nothing answers at {address}: {reason}. {_ADVICE}") from error


def _check_joinable(address: str, patience_s: float) -> None:
    """Try it in other processes: Ray may wait for minutes, or end the process that it is in."""
    for left in reversed(range(JOINS)):
        try:
            _join_elsewhere(address, patience_s)
        except EngineError:
            if not left:
                raise
        else:
            return


def _join_elsewhere(address: str, patience_s: float) -> None:
    program = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False)"
    command = [sys.executable, "-c", program, address]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=patience_s)
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"What listens at {address} did not answer as a Ray cluster does within "
            f"{patience_s:.0f} s, {JOINS} times. {_ADVICE}"
        ) from error
    if tried.returncode:
        reason = (tried.stderr.strip() or f"exit code {tried.returncode}").splitlines()[-1]
        raise EngineError(f"The Ray cluster at {address} cannot be joined: {reason} {_ADVICE}")


_ADVICE = (
    "Check that the cluster is up (`ray status` on its head), that host and port are right (10001 "
    "for ray://, 6379 without), and that no firewall is between."
)
