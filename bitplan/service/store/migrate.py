"""Tables brought up to date when the service starts, by alembic's scripts in the package."""

from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from bitplan.errors import InputError
from bitplan.service.store.tables import metadata

_LOCK = 0x6269_7470
"""Of PostgreSQL's advisory locks, the one of whoever migrates."""


def migrate(connection: Connection) -> None:
    """Run what is missing of the migrations, in the transaction that the connection is in.

    A second process waits: on SQLite because the transaction writes, on PostgreSQL for a lock that
    ends with the transaction. Raises `InputError` for a database of a newer bitplan.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    environment = EnvironmentContext(
        config, script, fn=lambda revision, _: script._upgrade_revs("head", revision)
    )
    try:
        with environment:
            environment.configure(
                connection=connection,
                target_metadata=metadata,
                transactional_ddl=True,  # SQLite's is, once transactions begin by our word
            )
            environment.run_migrations()
    except CommandError as error:
        raise InputError(
            f"The database was made by another version of bitplan ({error}). Use that version, or "
            "a newer one."
        ) from error
