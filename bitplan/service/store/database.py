"""The database: SQLite or PostgreSQL, transactions that read and transactions that write."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import URL, ColumnElement, Connection, Double, Engine, create_engine, event, func
from sqlalchemy import cast as as_type
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from bitplan.errors import InputError
from bitplan.files import make_folder
from bitplan.service.settings import ServiceSettings
from bitplan.service.store.errors import StoreUnavailable
from bitplan.service.store.migrate import migrate
from bitplan.service.store.reserve import Reserve

BUSY_S = 15
"""How long a writer waits for another: transactions here take milliseconds."""


class Database:
    """Connections to one database, its tables brought up to date; used from many threads.

    On SQLite a writing transaction begins as a writer: one that reads first and then cannot write
    would have to be tried again. Readers never wait for it (write-ahead log). What is committed
    is on disk. When that is full a part of the reserve is let go: what could not be written then
    can be the next time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        file = engine.url.database if self.is_sqlite else None
        self._reserve = Reserve(Path(file).with_name("reserve")) if file else None

    @classmethod
    def open(cls, settings: ServiceSettings) -> "Database":
        """Connect, and make or migrate the tables. Raises `InputError`, `StoreUnavailable`."""
        url = _url(settings.url)
        try:
            database = cls(_engine_of(url))
        except ModuleNotFoundError as error:
            raise InputError(
                f"{url.drivername} needs the package {error.name}. Install the extra of its name: "
                'pip install "bitplan[service,postgresql]".'
            ) from error
        try:
            with _alone(url):
                if database.is_sqlite:
                    database._use_write_ahead_log()
                database.keep_reserve()
                with database.write() as connection:
                    migrate(connection)
        except BaseException:
            database.close()
            raise
        return database

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of things and changes nothing."""
        with self._told(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed when the block ends, and undone when it raises."""
        with self._told(), self._engine.connect() as connection:
            connection.execution_options(is_writer=True)
            with connection.begin():
                yield connection

    def now(self) -> ColumnElement[float]:
        """The database's own clock, in seconds since 1970: workers' clocks may differ."""
        if self.is_sqlite:
            return as_type((func.julianday("now") - 2440587.5) * 86400.0, Double)
        return as_type(func.extract("epoch", func.clock_timestamp()), Double)

    def keep_reserve(self) -> None:
        """Keep some room of the disk for later, where that is what the database lies on."""
        if self._reserve is not None:
            self._reserve.keep()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            if self._reserve is not None and _is_full(error):
                self._reserve.let_go()
            reason = getattr(error, "orig", error)
            raise StoreUnavailable(
                f"The database cannot be reached or written ({reason}). Free some space, or see "
                "whether it runs, and try again."
            ) from error

    def _use_write_ahead_log(self) -> None:
        connection = self._engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()


def _url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise InputError(
            "The database's URL cannot be read. Write postgresql://user:password@host/name, or "
            "leave it out for SQLite."
        ) from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise InputError(
            f"The database is {url.get_backend_name()}; bitplan knows sqlite and postgresql."
        )
    return url


def _engine_of(url: URL) -> Engine:
    try:
        if url.get_backend_name() != "sqlite":
            return create_engine(url, pool_size=10, max_overflow=40, pool_pre_ping=True)
    except NoSuchModuleError as error:
        raise InputError(f"The database's driver {url.drivername} is unknown: {error}.") from error
    engine = create_engine(url, pool_size=10, max_overflow=90, connect_args={"timeout": BUSY_S})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: sqlite3.Connection, record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_on_begin` says
    for pragma in ("foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    is_writer = connection.get_execution_options().get("is_writer")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")


@contextlib.contextmanager
def _alone(url: URL) -> Iterator[None]:
    """Keep other processes of this machine out while a SQLite file is made or migrated."""
    if url.get_backend_name() != "sqlite" or not url.database:
        yield
        return
    file = make_folder(url.database.rpartition("/")[0] or ".") / "service.lock"
    with FileLock(file):
        yield


def _is_full(error: Exception) -> bool:
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    # An index of the write-ahead log that cannot grow is an input/output error.
    return code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
