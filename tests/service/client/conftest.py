"""Both clients, in the same hands."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scripted_service import Script, client_of


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("BITPLAN_SERVER", "BITPLAN_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["waiting", "awaited"])
def client(request) -> Iterator[Callable[..., Any]]:
    """Makes the client of a script."""
    made: list[Any] = []

    def make(script: Script, **arguments: Any) -> Any:
        made.append(client_of(request.param, script, **arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()
