"""A server in this process as tests use it, and tables to send to it."""

from dataclasses import dataclass
from pathlib import Path

from starlette.testclient import TestClient

from bitplan.footprint import scheme_bytes
from bitplan.schema import Cost, CostTable, Kind, Layer, Provenance, Row, Scheme
from bitplan.service.http import Service
from bitplan.service.records import Scope

SCOPES = {"alice": Scope.SUBMIT, "bob": Scope.SUBMIT, "eve": Scope.READ, "root": Scope.ADMIN}
BITS = {"int2g32": 2, "int4g32": 4, "int8s": 8, "bf16": 16}


@dataclass(frozen=True, kw_only=True)
class Api:
    """A server without lifespan, in this process: its solver starts when it is first asked."""

    client: TestClient
    service: Service
    secrets: dict[str, str]
    models: Path

    def __call__(self, method: str, path: str, who: str | None = "alice", **keywords):
        headers = dict(keywords.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = f"Bearer {self.secrets[who]}"
        return self.client.request(method, path, headers=headers, **keywords)

    def submit(self, who: str = "alice", **more):
        parameters = {"kind": "describe", "model": "tiny"}
        return self("POST", "/v1/jobs", who, json={"parameters": parameters, **more})


def problem(response, status: int, *parts: str) -> dict:
    """That an answer is a problem of a status, which says so much; no traceback in it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert content["status"] == status
    assert content["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    for part in parts:
        assert part in content["detail"]
    return content


def table_of(layers: int) -> CostTable:
    """A table whose losses fall by a factor of 4 a bit."""
    rows = []
    for index in range(layers):
        layer = Layer(name=f"blocks.{index}.proj", kind=Kind.LINEAR, shape=(64, 64), block=index)
        costs = tuple(
            Cost(
                scheme=Scheme.parse(name),
                bytes=scheme_bytes(layer.shape, Scheme.parse(name)),
                loss=(index + 1) * 4.0**-bits,
                standard_error=0.0,
            )
            for name, bits in BITS.items()
        )
        rows.append(Row(layer=layer, costs=costs))
    provenance = Provenance(
        model="made up",
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
    return CostTable(provenance=provenance, rest_bytes=1000, rows=tuple(rows))
