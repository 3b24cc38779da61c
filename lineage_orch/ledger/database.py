"""The database under the ledger: how it is reached, and what is said when it cannot be reached.

SQLite and PostgreSQL share every statement; what differs between them is here, in the tables (``ledger_schema``) and
in the words for failures (``database_mends``).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import unquote

from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DataError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from lineage_orch.errors import LedgerError, LedgerSchemaError, LedgerUnavailableError
from lineage_orch.ledger import schema as ledger_schema
from lineage_orch.ledger.failures import BUSY_SECONDS, mend_postgres, mend_sqlite

CONNECT_SECONDS = 10
"""How long to wait for a PostgreSQL server that does not answer."""

_DRIVERS = {"sqlite": "sqlite", "sqlite+pysqlite": "sqlite"} | dict.fromkeys(
    ("postgresql", "postgres", "postgresql+psycopg"), "postgresql+psycopg"
)
# An arbitrary constant: the advisory lock under which one process at a time changes the schema.
_DDL_LOCK = 0x6C696E656167650A


class Cursor(Protocol):
    """What a statement gave, by SQLAlchemy or by SQLite's driver."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchone(self) -> Any:
        """Return the next row; None after the last."""

    def fetchall(self) -> Sequence[Any]:
        """Return the rows that are left."""


class _Opened(NamedTuple):
    """The engines over one pool, and what they were opened on."""

    identity: object
    pid: int
    engine: Engine
    reader: Engine


class Database:
    """One ledger database: opens it, keeps its schema right, and tells its failures in plain words.

    Construction does no I/O. The first use connects and checks the schema; so does the first use after any
    failure, after a fork, and after the SQLite file was replaced, so that a mended ledger works again without
    a restart.

    Raises:
        LedgerUnavailableError: the url cannot be read, or names an engine or a driver that is not supported.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError, AttributeError):
            # The text is not repeated: it may hold a password at a place where nobody expects one.
            raise LedgerUnavailableError(
                "the ledger's url cannot be read; write it as sqlite:///folder/ledger.db or "
                "postgresql+psycopg://user:password@host/database (quote special characters of the password)"
            ) from None
        if parsed.drivername not in _DRIVERS:
            raise LedgerUnavailableError(
                f"the ledger {_shown(parsed)} cannot be opened: {parsed.drivername!r} is not supported; "
                "use sqlite:///folder/ledger.db or postgresql+psycopg://user:password@host/database"
            )
        self.url = parsed.set(drivername=_DRIVERS[parsed.drivername])
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.path: Path | None = None
        """The SQLite file; ``None`` on PostgreSQL and in memory."""
        if self.is_sqlite:
            self._locate()
        self.shown = _shown(self.url)
        """The url, fit to be printed."""
        self._mutex = threading.Lock()
        self._opened: _Opened | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One read transaction: everything read in it is of one instant."""
        with self.plain_words(), self._transaction(self._prepare().reader, "BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction; on SQLite it is the only one of the whole file from its start."""
        with self.plain_words(), self._transaction(self._prepare().engine, "BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, engine: Engine, begin: str) -> Iterator[Connection]:
        with engine.connect() as connection, connection.begin():
            if self.is_sqlite:
                # A writer takes the file at once: one that read first could not be let in after another wrote.
                _sqlite(connection).execute(begin)
            yield connection

    def run(self, connection: Connection, statement: str, values: dict[str, Any] | list[dict[str, Any]]) -> Cursor:
        """Execute a statement with ``:named`` values, or once for each of them, within a transaction.

        On SQLite straight by its driver, whose own work is less than what SQLAlchemy adds to it; a server is so far
        away that this would not show.
        """
        if not self.is_sqlite:
            return connection.exec_driver_sql(_compiled(statement, connection.dialect), values)
        driver = _sqlite(connection)
        return driver.executemany(statement, values) if isinstance(values, list) else driver.execute(statement, values)

    def dedicated(self) -> Connection:
        """Return a connection outside the pool that commits each statement; whoever asked for it closes it."""
        with self.plain_words():
            connection = self._prepare().engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            connection.detach()
            return connection

    def close(self) -> None:
        """Close every pooled connection. A ledger in memory forgets all it held."""
        with self._mutex:
            self._forget()

    def unavailable(self, error: BaseException) -> LedgerUnavailableError:
        """Say in one message which ledger failed, how, and what mends it."""
        cause = getattr(error, "orig", None) or error
        what = " ".join(str(cause).split()) or type(cause).__name__
        return LedgerUnavailableError(
            f"the ledger {self.shown} cannot be used: {what.rstrip('.')}; {self._mend(cause)}"
        )

    # -- opening --------------------------------------------------------------------------------------------

    def _locate(self) -> None:
        """Find the file that the url names; absolute, because dbt changes the working directory."""
        name, query = self.url.database or "", self.url.query
        if name.startswith("file:"):
            where = unquote(name.removeprefix("file:"))
            where = "/" + where.lstrip("/") if where.startswith("//") else where
            if where not in ("", ":memory:") and query.get("mode") != "memory":
                self.path = Path(os.path.abspath(where))
        elif name not in ("", ":memory:"):
            self.path = Path(os.path.abspath(name))
            self.url = self.url.set(database=str(self.path))

    def _identity(self) -> object:
        """What must stay the same for open connections to be of use; ``None`` if there is no file."""
        if self.path is None:
            return "memory" if self.is_sqlite else os.getpid()
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            return None
        return os.getpid(), stat.st_dev, stat.st_ino

    def _prepare(self) -> _Opened:
        """Connect and check the schema, unless that was done."""
        opened, identity = self._opened, self._identity()
        if opened is not None and identity is not None and opened.identity == identity:
            return opened
        with self._mutex:
            opened, identity = self._opened, self._identity()
            if opened is not None and identity is not None and opened.identity == identity:
                return opened
            self._forget()
            engine, reader = self._open()
            try:
                self._migrate(engine, reader)
            except BaseException:
                engine.dispose()
                raise
            self._opened = _Opened(self._identity(), os.getpid(), engine, reader)
            return self._opened

    def _forget(self) -> None:
        """Drop connections that are of no use any more (the mutex is held)."""
        opened, self._opened = self._opened, None
        if opened is not None:
            # After a fork the connections belong to the parent: leave them open.
            opened.engine.dispose(close=opened.pid == os.getpid())

    def _open(self) -> tuple[Engine, Engine]:
        if self.is_sqlite:
            if self.path is not None and self.url.query.get("mode") not in ("ro", "rw"):
                _make_folder(self.path.parent)
            options: dict[str, Any] = {"check_same_thread": False, "timeout": BUSY_SECONDS}
            # In memory, one connection is the whole database: threads take turns.
            size = {"pool_size": 1, "max_overflow": 0} if self.path is None else {"pool_size": 5}
            engine = create_engine(
                self.url,
                paramstyle="named",
                connect_args=options,
                poolclass=QueuePool,
                pool_timeout=BUSY_SECONDS,
                **size,
            )
            event.listen(engine, "connect", _set_up_sqlite)
            return engine, engine
        # A dead server or network must be noticed, not waited for.
        options = {"connect_timeout": CONNECT_SECONDS, "keepalives_idle": 30, "keepalives_interval": 10}
        options = {key: value for key, value in options.items() if key not in self.url.query}
        engine = create_engine(self.url, connect_args=options, pool_pre_ping=True, pool_timeout=BUSY_SECONDS)
        event.listen(engine, "connect", _set_up_postgres)
        reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        return engine, reader

    # -- schema ---------------------------------------------------------------------------------------------

    def _migrate(self, engine: Engine, reader: Engine) -> None:
        """Bring the schema to this release's version, all of it or nothing; one process at a time."""
        newest = len(ledger_schema.MIGRATIONS)
        with self._transaction(reader, "BEGIN") as connection:
            if self._version(connection) == newest:
                return
        with self._transaction(engine, "BEGIN IMMEDIATE") as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _DDL_LOCK})
            # Read again: another process may have done it while this one waited.
            found = self._version(connection)
            if found is None:
                connection.execute(text("CREATE TABLE lineage_orch_meta (version INTEGER NOT NULL)"))
                connection.execute(text("INSERT INTO lineage_orch_meta (version) VALUES (0)"))
            for migrate in ledger_schema.MIGRATIONS[found or 0 :]:
                migrate(connection)
            connection.execute(text("UPDATE lineage_orch_meta SET version = :version"), {"version": newest})

    def _version(self, connection: Connection) -> int | None:
        if not inspect(connection).has_table("lineage_orch_meta"):
            return None
        found = int(connection.execute(text("SELECT max(version) FROM lineage_orch_meta")).scalar() or 0)
        if found > len(ledger_schema.MIGRATIONS):
            raise LedgerSchemaError(
                f"the ledger {self.shown} has schema version {found}, which a newer lineage_orch wrote; this "
                f"release knows versions up to {len(ledger_schema.MIGRATIONS)}; upgrade it here: "
                "pip install --upgrade lineage_orch"
            )
        return found

    # -- failures -------------------------------------------------------------------------------------------

    @contextmanager
    def plain_words(self) -> Iterator[None]:
        """Turn whatever the database raises in the block into a LedgerError that people can act on."""
        try:
            yield
        except (DataError, sqlite3.DataError, UnicodeError) as error:
            cause = getattr(error, "orig", None) or error
            raise LedgerError(
                f"the ledger {self.shown} cannot store a value: {cause}; names and ids must be plain text, "
                "without NUL or half of a surrogate pair"
            ) from error
        except (SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
            self._recover()
            raise self.unavailable(error) from error

    def _recover(self) -> None:
        """Let the next use start afresh, but keep a database that lives in memory."""
        if self.path is not None or not self.is_sqlite:
            with self._mutex, suppress(SQLAlchemyError, sqlite3.Error, OSError):
                self._forget()

    def _mend(self, cause: BaseException) -> str:
        if isinstance(cause, ImportError):
            return "the PostgreSQL driver is missing: pip install 'lineage_orch[postgres]'"
        return mend_sqlite(cause, self.path) if self.is_sqlite else mend_postgres(cause)


@lru_cache(maxsize=64)
def _compiled(statement: str, dialect: Dialect) -> str:
    return str(text(statement).compile(dialect=dialect))


def _sqlite(connection: Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, connection.connection.dbapi_connection)


def _shown(url: URL) -> str:
    """Return the url with every password hidden, also one in its query."""
    secrets = {key: "***" for key in url.query if "password" in key.lower()}
    return url.update_query_dict(secrets).render_as_string(hide_password=True)


def _make_folder(folder: Path) -> None:
    """Create the folder of the file; our own is kept out of git."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return  # another process was faster; a file of that name fails when SQLite opens it
    if folder.name == ".lineage_orch":
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # SQLAlchemy's recipe: the driver must not begin transactions by itself, Database does.
    connection.isolation_level = None
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait by itself when two connections turn WAL on at the same time.
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    # FULL waits for the disk at each commit: what was loaded is not forgotten when the power goes.
    connection.execute("PRAGMA synchronous=FULL")


def _set_up_postgres(connection: Any, _record: object) -> None:
    connection.autocommit = True
    connection.execute(f"SET lock_timeout = '{int(BUSY_SECONDS * 1000)}ms'")
    connection.autocommit = False
