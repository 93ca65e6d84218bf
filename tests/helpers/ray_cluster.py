"""A Ray cluster on this machine, and a port for clients from outside of it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the home alone, where Ray would write a token, and wait for machines that are busy."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S", "100")


@contextmanager
def cluster_with_clients(client_port: int) -> Iterator[Any]:
    """A head that does no tasks, and a server for clients; add nodes to it."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "ray_client_server_port": client_port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
