"""An app with a store of its own, four people's tokens, and a table to solve."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bitplan.service.http import make_app
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store
from service_api import SCOPES, Api, table_of


@pytest.fixture(scope="session")
def api(tmp_path_factory) -> Iterator[Api]:
    # As much of a model as the web process looks at.
    models = tmp_path_factory.mktemp("allowed")
    (models / "tiny").mkdir()
    (models / "tiny" / "config.json").write_text("{}")
    (models / "tiny" / "model.safetensors").write_bytes(b"weights")
    yield from _served(
        ServiceSettings(
            folder=tmp_path_factory.mktemp("service"),
            model_folders=(models,),
            organisations=("HuggingFaceTB",),
            token_required=True,
            read_rate="100000/minute",
            submit_rate="100000/minute",
            max_upload_bytes=3_000_000,
            time_limit_s=3600,
        ),
        models,
    )


@pytest.fixture
def served(tmp_path) -> Iterator:
    """Makes a server of settings, and closes it."""
    made = []

    def serve(**given) -> Api:
        folder = tmp_path / f"service-{len(made)}"
        made.append(_served(ServiceSettings(folder=folder, **given), tmp_path))
        return next(made[-1])

    yield serve
    for one in made:
        next(one, None)


def _served(settings: ServiceSettings, models: Path) -> Iterator[Api]:
    store = Store.open(settings)
    secrets = {name: store.tokens.create(name, scope)[1] for name, scope in SCOPES.items()}
    app = make_app(settings, store)
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    service = app.state.service
    yield Api(client=client, service=service, secrets=secrets, models=models)
    service.solver.close()
    service.reader.close()
    store.close()


@pytest.fixture(scope="session")
def table(api) -> str:
    """Digest of a table of 12 layers that alice sent."""
    response = api("POST", "/v1/tables", content=table_of(12).to_json())
    assert response.status_code == 201, response.text
    return response.json()["digest"]
