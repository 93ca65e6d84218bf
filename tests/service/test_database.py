"""Tables that are made and migrated, by one process or several, and settings of the environment."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from bitplan.errors import InputError, OutputError
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store, StoreUnavailable
from bitplan.service.store.shelf import Shelf, digest_of
from bitplan.service.store.tables import metadata

OPEN = """
import sys
from pathlib import Path
from bitplan.service.settings import ServiceSettings
from bitplan.service.store import Store
Store.open(ServiceSettings(folder=Path(sys.argv[1]), database_url=sys.argv[2] or None)).close()
"""


def test_several_processes_make_the_tables_at_once(service_settings):
    url = service_settings.database_url or ""
    command = [sys.executable, "-W", "error", "-c", OPEN, str(service_settings.folder), url]
    several = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in several] == [0, 0, 0]
    with contextlib.closing(Store.open(service_settings)) as store:
        with store.database.read() as connection:
            rows = connection.execute(text("SELECT version_num FROM alembic_version")).all()
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert [row.version_num for row in rows] == ["0001"]


def test_a_database_of_a_newer_version_is_refused(service_settings):
    with (
        contextlib.closing(Store.open(service_settings)) as store,
        store.database.write() as connection,
    ):
        connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
    with pytest.raises(InputError, match="another version of bitplan"):
        Store.open(service_settings)


def test_a_block_that_raises_writes_nothing(store):
    def write() -> None:
        with store.database.write() as connection:
            connection.execute(text("DELETE FROM alembic_version"))
            connection.execute(text("INSERT INTO jobs (id) VALUES ('x')"))

    with pytest.raises(IntegrityError):
        write()
    with store.database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar_one() == 1


def test_readers_do_not_wait_for_a_writer(store):
    with store.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'x'"))
        with store.database.read() as other:
            found = other.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    assert found == "0001"


@pytest.mark.parametrize(
    ("url", "error", "what"),
    [
        ("nothing", InputError, "URL cannot be read"),
        ("mysql://host/name", InputError, "knows sqlite and postgresql"),
        ("postgresql://u@127.0.0.1:1/name", StoreUnavailable, "cannot be reached"),
    ],
)
def test_a_database_that_is_not_to_be_had(tmp_path, url, error, what):
    with pytest.raises(error, match=what):
        Store.open(ServiceSettings(folder=tmp_path, database_url=url))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        Store.open(ServiceSettings(folder=tmp_path / "file" / "service"))


def test_a_shelf_that_cannot_be_written_keeps_nothing_half(tmp_path):
    shelf = Shelf(tmp_path)
    (tmp_path / digest_of(b"1")[:2]).write_text("in the way")
    with pytest.raises(OutputError):
        shelf.add(b"1")
    assert digest_of(b"1") not in shelf
    assert shelf.path(shelf.add(b"2")).read_bytes() == b"2"


def test_settings_of_the_environment(monkeypatch):
    for name, value in {
        "MODEL_FOLDERS": "/models, /more",
        "ORGANISATIONS": '["one", "two"]',
        "DATABASE_URL": "postgres://u@h/n",
        "WORKERS": "3",
    }.items():
        monkeypatch.setenv(f"BITPLAN_SERVICE_{name}", value)
    settings = ServiceSettings()
    assert settings.model_folders == (Path("/models"), Path("/more"))
    assert settings.organisations == ("one", "two")
    assert settings.url == "postgresql+psycopg://u@h/n"
    assert settings.workers == 3
