"""Tasks on a Ray cluster: this machine alone, or many."""

import contextlib
import importlib.util
import socket
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from bitplan.errors import EngineError
from bitplan.sensitivity.engines.engine import AbstractEngine, R, Room, T
from bitplan.sensitivity.engines.parcel import call, result_of, wrap

RETRIES = 10
"""How many nodes or workers one task may take with it."""

PATIENCE_S = 10.0
"""How long an address may take to answer."""

SCHEME = "ray://"


class Ray(AbstractEngine):
    """Ray's tasks, each on one core. Needs `pip install 'bitplan[ray]'`, on every node.

    `address` is ray://host:port of a client server, or host:port of a cluster that this machine is
    part of; without one, a cluster of this machine is joined or started. Nodes must have the same
    versions and the same kind of processor for tables that are the same to the last bit.
    """

    def __init__(self, *, address: str | None = None, workers: int | None = None) -> None:
        check_installed()
        self.address, self.workers = address, workers
        self._was_connected = False

    def __enter__(self) -> Self:
        """Connect; raises `EngineError` where that is not possible."""
        import ray

        self._was_connected = ray.is_initialized()
        if not self._was_connected:
            _connect(self.address, self.workers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"The Ray cluster lost a task {RETRIES + 1} times, or itself: {first} Look at its nodes "
            "with `ray status`. What was done is kept: the same command goes on from there."
        ) from error


def _connect(address: str | None, workers: int | None) -> None:
    import ray

    if address is not None:
        _check_reachable(address)
    local = {"num_cpus": workers} if address is None and workers else {}
    try:
        ray.init(
            address=address,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            **local,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        where = address or "on this machine"
        raise EngineError(
            f"The Ray cluster {where} cannot be joined: {str(error).strip()} {_ADVICE}"
        ) from error


def _check_reachable(address: str) -> None:
    """Ray itself would try for long, and may end the process."""
    host, _, port = address.removeprefix(SCHEME).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S).close()
    except OSError as error:
        reason = error.strerror or error
        raise EngineError(f"Nothing answers at {address}: {reason}. {_ADVICE}") from error


_ADVICE = (
    "Check that the cluster is up (`ray status` on its head), that host and port are right (10001 "
    "for ray://, 6379 without), and that no firewall is between."
)
