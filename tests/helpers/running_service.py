"""The web app on loopback, in a thread; the test is its worker."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from bitplan.schema import Cost, CostTable, Kind, Layer, Provenance, Row, Scheme
from bitplan.service.http import make_app
from bitplan.service.records import Artefact, Fault, Job, State
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Claim, Store


class Running:
    """A service that can be stopped and started again on its port, as one that is killed."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.store = Store.open(settings)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.app = make_app(self.settings, self.store)
        config = uvicorn.Config(
            self.app, port=self.port, log_config=None, ws="none", timeout_graceful_shutdown=0
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def take(self, job: Job) -> Claim:
        claim = self.store.claims.claim(job.id, "test")
        assert claim is not None
        return claim

    def make(self, claim: Claim, name: str, content: bytes) -> None:
        digest = self.store.artefacts.shelf.add(content)
        artefact = Artefact(name=name, digest=digest, bytes=len(content))
        self.store.claims.add_artefact(claim, artefact)

    def work(self, job: Job, files: dict[str, bytes], fault: Fault | None = None) -> None:
        """Do a job at once."""
        claim = self.take(job)
        self.store.claims.tell(claim, "progress", {"stage": "measure", "done": 1, "total": 2})
        remark = {"stage": "measure", "text": "good", "kl": 0.25, "uniform_kl": 0.5}
        self.store.claims.tell(claim, "remark", remark)
        for name, content in files.items():
            self.make(claim, name, content)
        end = State.SUCCEEDED if fault is None else State.FAILED
        assert self.store.claims.finish(claim, end, fault)


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Running]:
    models = folder / "models"
    (models / "tiny").mkdir(parents=True, exist_ok=True)
    (models / "tiny" / "config.json").write_text('{"model_type": "llama"}')
    (models / "tiny" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    given = {"folder": folder / "state", "model_folders": (models,), "read_rate": "100000/minute"}
    service = Running(ServiceSettings(**{**given, **settings}))
    try:
        yield service
    finally:
        service.stop()
        service.store.close()


def small_table() -> CostTable:
    """Two layers, three schemes: fewer bits cost more."""
    provenance = Provenance(
        model="tiny",
        model_digest="m",
        dtype="bfloat16",
        calibration="text",
        calibration_digest="c",
        calibration_tokens=64,
        estimator="given",
        quantizer="rtn",
        seed=0,
        versions={"bitplan": "0"},
    )
    schemes = {"int2g32": (3, 0.5), "int4g32": (5, 0.1), "bf16": (16, 0.0)}
    rows = []
    for name in ("a", "b"):
        layer = Layer(name=name, kind=Kind.LINEAR, shape=(64, 64), block=0)
        costs = [
            Cost(scheme=Scheme.parse(s), bytes=64 * 8 * bits, loss=loss, standard_error=loss / 10)
            for s, (bits, loss) in schemes.items()
        ]
        rows.append(Row(layer=layer, costs=tuple(costs)))
    return CostTable(provenance=provenance, rest_bytes=100, rows=tuple(rows))
