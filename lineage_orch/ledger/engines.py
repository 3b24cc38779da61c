"""What differs from one database engine to the next: a class each. A third engine is one more class here."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sqlalchemy import URL, Connection, Engine, Executable, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from lineage_orch.errors import LedgerUnavailableError
from lineage_orch.ledger.lock import LockHandle, take_advisory_lock, take_file_lock, take_memory_lock

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

BUSY_SECONDS = 30.0
"""How long a write waits for another process's write before it gives up."""

CONNECT_SECONDS = 10
"""How long to wait for a PostgreSQL server that does not answer."""


class Backend(ABC):
    """One database of one engine. Construction does no I/O.

    Attributes:
        url: The url, as SQLAlchemy's driver takes it.
        shown: The url, fit to be printed.
        in_memory: Whether the database is gone when its connection is closed.
    """

    in_memory = False

    def __init__(self, url: URL) -> None:
        self.url = url
        self.shown = _shown(url)

    @abstractmethod
    def connect(self) -> tuple[Engine, Engine]:
        """Return (writer, reader) over one pool of connections.

        A transaction of the reader sees one instant. One of the writer sees what was committed before it got the
        row lock of its clock, and no other writer can have that at the same time.
        """

    @abstractmethod
    def identity(self) -> object:
        """Return what must stay the same for open connections to be of use; ``None``: it does not exist."""

    @abstractmethod
    def lock_schema(self, connection: Connection) -> None:
        """Let one process at a time change the tables, until the transaction ends."""

    @abstractmethod
    def insert_into(self) -> _Insert:
        """Return how the dialect begins an insert that can say ON CONFLICT."""

    def insert_new(self, table: Table) -> Executable:
        """Return an insert that does nothing where the row, by any unique key, is there."""
        return _insert_new(self.insert_into(), table)

    def upsert(self, table: Table, *columns: str) -> Executable:
        """Return an insert that sets these columns where the row, by the primary key, is there."""
        return _upsert(self.insert_into(), table, *columns)

    @abstractmethod
    def take_lock(self, scope: str, open_session: Callable[[], Connection]) -> LockHandle | None:
        """Take the build lock of a scope without waiting; ``None`` if any process or thread has it."""

    @abstractmethod
    def hint(self, cause: BaseException) -> str:
        """Return what people can do about a failure."""


def backend_of(url: str) -> Backend:
    """Return the backend that a url names.

    Raises:
        LedgerUnavailableError: the url cannot be read, or names an engine or a driver that is not supported.
    """
    try:
        parsed = make_url(url)
        if "@" in (parsed.host or ""):
            raise ValueError("all up to the last @ is the password, which is in no message")
    except (ArgumentError, ValueError, AttributeError):
        # The text is not repeated: it may hold a password at an unexpected place.
        raise LedgerUnavailableError(
            "the ledger's url cannot be read; write it as sqlite:///folder/ledger.db or "
            "postgresql+psycopg://user:password@host/database (quote special characters of the password)"
        ) from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return Sqlite(parsed.set(drivername="sqlite"))
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return Postgres(parsed.set(drivername="postgresql+psycopg"))
    raise LedgerUnavailableError(
        f"the ledger {_shown(parsed)} cannot be opened: {parsed.drivername!r} is not supported; "
        "use sqlite:///folder/ledger.db or postgresql+psycopg://user:password@host/database"
    )


def _shown(url: URL) -> str:
    """Return the url with every password hidden, also one in its query."""
    secrets = {key: "***" for key in url.query if "password" in key.lower()}
    return url.update_query_dict(secrets).render_as_string(hide_password=True)


# SQLite and PostgreSQL say ON CONFLICT alike; making such a statement costs more than running it.
_Insert = Callable[[Table], "sqlite.Insert | postgresql.Insert"]


@cache
def _insert_new(insert_into: _Insert, table: Table) -> Executable:
    return insert_into(table).on_conflict_do_nothing()


@cache
def _upsert(insert_into: _Insert, table: Table, *columns: str) -> Executable:
    insert = insert_into(table)
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key), set_={name: insert.excluded[name] for name in columns}
    )


# -- SQLite ----------------------------------------------------------------------------------------------------


class Sqlite(Backend):
    """A SQLite file, or a database in memory."""

    def __init__(self, url: URL) -> None:
        self.path = _file_of(url)
        # Absolute, because dbt changes the working directory.
        named = self.path is not None and not (url.database or "").startswith("file:")
        super().__init__(url.set(database=str(self.path)) if named else url)
        self.in_memory = self.path is None
        self._memory_locks: dict[str, threading.Lock] = {}

    def connect(self) -> tuple[Engine, Engine]:
        """Open the file, creating it where it is missing."""
        if self.path is not None and self.url.query.get("mode") not in ("ro", "rw"):
            _make_folder(self.path.parent)
            _make_file(self.path)
        engine = create_engine(
            self.url,
            connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
            poolclass=QueuePool,
            pool_timeout=BUSY_SECONDS,
            # In memory, one connection is the whole database: threads take turns.
            pool_size=1 if self.in_memory else 5,
            max_overflow=0 if self.in_memory else 10,
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine, engine.execution_options(sqlite_begin="BEGIN")

    def identity(self) -> object:
        """Which file it is, in this process."""
        if self.path is None:
            return "memory"
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            return None
        return os.getpid(), stat.st_dev, stat.st_ino

    def lock_schema(self, connection: Connection) -> None:
        """Do nothing: BEGIN IMMEDIATE took the whole file."""

    def insert_into(self) -> _Insert:
        """SQLite's."""
        return sqlite.insert

    def take_lock(self, scope: str, open_session: Callable[[], Connection]) -> LockHandle | None:
        """Lock a file beside this one."""
        if self.path is None:
            return take_memory_lock(self._memory_locks.setdefault(scope, threading.Lock()))
        return take_file_lock(self.path, scope, self.shown)

    def hint(self, cause: BaseException) -> str:
        """Read SQLite's error code."""
        if self.path is not None and os.path.isdir(self.path):
            return f"{self.path} is a folder: name a file in it"
        name = getattr(cause, "sqlite_errorname", "")
        for prefix, hint in _SQLITE_HINTS.items():
            if name.startswith(prefix):
                return hint
        if self.path is None:
            return "it lives in memory: use it from fewer threads, or use a file"
        return f"check the folder {self.path.parent}, the rights on it, and that its disk is not full"


_SQLITE_HINTS = {
    **dict.fromkeys(
        ("SQLITE_NOTADB", "SQLITE_CORRUPT"),
        "the file is damaged: restore it from a backup, or move it and its -wal and -shm files away to start "
        "an empty ledger",
    ),
    **dict.fromkeys(
        ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"),
        "it can be read only: give this user the right to write the file and its folder, and leave mode=ro out",
    ),
    "SQLITE_CANTOPEN": "check that its folder exists and that this user may write there",
    "SQLITE_FULL": "its disk is full: free some space",
    **dict.fromkeys(
        ("SQLITE_BUSY", "SQLITE_LOCKED"),
        f"another process has held it for more than {BUSY_SECONDS:.0f} s: end that one, or try again",
    ),
    **dict.fromkeys(
        ("SQLITE_IOERR", "SQLITE_PROTOCOL"),
        "keep the file on a healthy local disk, not on a network share; for several machines use PostgreSQL",
    ),
}


def _file_of(url: URL) -> Path | None:
    """Return the file that a url of SQLite names; ``None`` for a database in memory."""
    name = url.database or ""
    if not name.startswith("file:"):
        return None if name in ("", ":memory:") else Path(os.path.abspath(name))
    where = unquote(name.removeprefix("file:"))
    where = "/" + where.lstrip("/") if where.startswith("//") else where
    if where in ("", ":memory:") or url.query.get("mode") == "memory":
        return None
    return Path(os.path.abspath(where))


def _make_folder(folder: Path) -> None:
    """Create the folder of the file, for this user alone; our own is kept out of git."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return  # another process was faster; a file of that name fails when SQLite opens it
    if folder.name == ".lineage_orch":
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")


def _make_file(path: Path) -> None:
    """Create an empty file, for this user alone, which SQLite takes for an empty database.

    Its -wal and -shm files, and the file of the build lock, get the rights of this one: who lets others write
    to it shares the ledger with them.
    """
    if path.exists():
        return  # also a folder, which SQLite will name
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # SQLAlchemy's recipe: the driver must not begin transactions by itself, _begin_sqlite does.
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


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the file at once: one that read first could not be let in after another wrote.
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE"))


# -- PostgreSQL ------------------------------------------------------------------------------------------------


class Postgres(Backend):
    """A PostgreSQL database."""

    # An arbitrary constant: the advisory lock under which one process at a time changes the schema.
    _SCHEMA_LOCK = 0x6C696E656167650A

    def connect(self) -> tuple[Engine, Engine]:
        """Open a pool of connections to the server."""
        # A dead server or network must be noticed, not waited for.
        options = {"connect_timeout": CONNECT_SECONDS, "keepalives_idle": 30, "keepalives_interval": 10}
        engine = create_engine(
            self.url,
            connect_args={key: value for key, value in options.items() if key not in self.url.query},
            pool_pre_ping=True,
            pool_timeout=BUSY_SECONDS,
            # Pinned, whatever the server's default: who waited for the row lock of the clock must see what the
            # writer before it committed.
            isolation_level="READ COMMITTED",
        )
        event.listen(engine, "connect", _set_up_postgres)
        return engine, engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def identity(self) -> object:
        """Nothing but this process."""
        return os.getpid()

    def lock_schema(self, connection: Connection) -> None:
        """Take an advisory lock."""
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._SCHEMA_LOCK})

    def insert_into(self) -> _Insert:
        """PostgreSQL's."""
        from sqlalchemy.dialects import postgresql  # a question of a file needs none of it

        return postgresql.insert

    def take_lock(self, scope: str, open_session: Callable[[], Connection]) -> LockHandle | None:
        """Take an advisory lock in a session of its own."""
        return take_advisory_lock(open_session(), scope, self.shown)

    def hint(self, cause: BaseException) -> str:
        """Read the SQLSTATE, or else libpq's words."""
        if isinstance(cause, ImportError):
            return "the PostgreSQL driver is missing: pip install 'lineage_orch[postgres]'"
        # libpq gives no code when the connection itself failed, so read its text; the lists go from sure to vague.
        code, words = getattr(cause, "sqlstate", None) or "", str(cause)
        for signs, hint in _POSTGRES_HINTS.items():
            if any(code.startswith(sign) if code else sign.islower() and sign in words for sign in signs):
                return hint
        return "check that the server runs, that this machine reaches it, and that the url is right; then try again"


_POSTGRES_HINTS = {
    ("28", "password", "authentication", "role "): "check the user and the password in the url",
    ("3D", 'database "'): "create the database, or correct its name in the url",
    ("42501", "permission denied"): "grant this user USAGE and CREATE on the schema, and its tables to write",
    ("55P03", "40P01"): f"another process has held it for more than {BUSY_SECONDS:.0f} s: end it, or try again",
    ("53100",): "the server's disk is full: free some space there",
    ("53300",): "the server has no connection left: raise max_connections, or run fewer processes at once",
    ("25006", "0A000"): "the server can be read only: name the primary, not a replica",
    ("42P01", "42703"): "its tables were dropped or changed by hand: restore them; run again to create missing ones",
}


def _set_up_postgres(connection: Any, _record: object) -> None:
    connection.autocommit = True
    connection.execute(f"SET lock_timeout = '{int(BUSY_SECONDS * 1000)}ms'")
    # A plan that is kept is that of an empty ledger, until statistics are made: each look-up would read all updates.
    connection.execute("SET plan_cache_mode = force_custom_plan")
    connection.autocommit = False
