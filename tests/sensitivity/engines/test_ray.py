"""A Ray cluster of two nodes on this machine, one of which dies."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bitplan import measure
from bitplan.calibration import Sizes
from bitplan.errors import EngineError
from bitplan.sensitivity.engines import get_engine
from bitplan.sensitivity.engines.ray import Ray
from ray_cluster import cluster_with_clients, free_port, prepare

ray = pytest.importorskip("ray", reason="needs the extra ray")

# Ray leaves files and sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SETTINGS = {
    "sizes": Sizes(calibration=8, search=4, held_out=4, length=16),
    "schemes": ["int2", "int4", "int8s", "bf16"],
}


@pytest.fixture(autouse=True)
def _prepared(monkeypatch):
    prepare(monkeypatch)


@pytest.fixture
def client_port() -> int:
    return free_port()


@pytest.fixture
def cluster(client_port) -> Iterator[Any]:
    with cluster_with_clients(client_port) as cluster:
        yield cluster


def test_a_node_that_is_killed_changes_no_byte(cluster, tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    expected = measure(model, workdir=tmp_path / "serial", engine="serial", **SETTINGS)
    nodes, killed = [cluster.add_node(num_cpus=1) for _ in range(2)], []

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "measure" and not killed:
            killed.append(done < total)
            cluster.remove_node(nodes[0], allow_graceful=False)

    table = measure(
        model, workdir=tmp_path / "ray", engine=cluster.address, progress=kill, **SETTINGS
    )
    assert killed == [True]
    assert table.to_json() == expected.to_json()
    attempts_over_a_dead_node(cluster, nodes[1], tmp_path / "notes")


def attempts_over_a_dead_node(cluster: Any, node: Any, notes: Path) -> None:
    """The first attempt is so slow that its node dies over it; another node does all."""
    attempt = f"echo begun >> {notes}; test $(wc -l < {notes}) -gt 1 || sleep 30; echo done"

    def commands() -> Iterator[list[str]]:
        yield ["sh", "-c", attempt]
        while not notes.exists():
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        yield from [["sh", "-c", attempt]] * 2

    with get_engine(cluster.address) as engine:
        assert list(engine.map(subprocess.check_output, commands())) == [b"done\n"] * 3
    assert notes.read_text() == "begun\n" * 4


def test_a_client_from_outside_the_cluster_gets_the_same_table(
    cluster, client_port, tiny_model, tmp_path
):
    cluster.add_node(num_cpus=1)
    model, host = tiny_model("llama", torch.bfloat16), cluster.address.partition(":")[0]
    expected = measure(model, workdir=tmp_path / "serial", engine="serial", **SETTINGS)
    address = f"ray://{host}:{client_port}"
    table = measure(model, workdir=tmp_path / "ray", engine=address, **SETTINGS)
    assert table.to_json() == expected.to_json()
    assert not ray.util.client.ray.is_connected()


def test_a_cluster_of_this_machine_is_started_and_stopped():
    with get_engine("ray", workers=1) as engine:
        assert sorted(engine.map(abs, [-1, -2, -3])) == [1, 2, 3]
        with pytest.raises(ValueError, match="invalid literal"):
            list(engine.map(int, ["1", "x"]))
    assert not ray.is_initialized()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_nobody_listens_at_is_refused_at_once(scheme):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
    with (
        pytest.raises(EngineError, match=rf"Nothing answers at {address}: .*ray status.*firewall"),
        get_engine(address),
    ):
        pass


def test_who_listens_and_does_not_answer_is_waited_for_no_longer_than_said():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        engine = Ray(address=address, patience_s=1)
        with pytest.raises(EngineError, match=rf"{address} did not answer .*within 1 s"):
            engine.start()
