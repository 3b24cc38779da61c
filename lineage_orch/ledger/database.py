"""The database under the ledger: opens it, keeps its tables right, and tells its failures in plain words."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, SQLAlchemyError

from lineage_orch.errors import LedgerError, LedgerSchemaError, LedgerUnavailableError
from lineage_orch.ledger import schema
from lineage_orch.ledger.engines import backend_of
from lineage_orch.ledger.lock import LockHandle
from lineage_orch.text import one_line


class _Opened(NamedTuple):
    """The engines over one pool, and what they were opened on."""

    identity: object
    pid: int
    writer: Engine
    reader: Engine


class Database:
    """One ledger database.

    Construction does no I/O. The first use connects and checks the schema; so does the first use after any
    failure, after a fork, and after the SQLite file was replaced, so that a ledger that was repaired works again
    without a restart.

    Raises:
        LedgerUnavailableError: the url cannot be read, or names an engine or a driver that is not supported.
    """

    def __init__(self, url: str) -> None:
        self.backend = backend_of(url)
        self._mutex = threading.Lock()
        self._opened: _Opened | None = None

    @property
    def shown(self) -> str:
        """The url, fit to be printed."""
        return self.backend.shown

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One read transaction: everything read in it is of one instant."""
        with self.plain_words(), self._prepare().reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction; on SQLite it is the only one of the whole file from its start."""
        with self.plain_words(), self._prepare().writer.begin() as connection:
            yield connection

    def take_lock(self, scope: str) -> LockHandle | None:
        """Take the build lock of a scope without waiting; ``None`` if any process or thread has it.

        Raises:
            LedgerUnavailableError: the engine could not be asked.
        """
        with self.plain_words():
            # Creates the folder, and finds out whether the ledger can be used at all.
            self._prepare()
            return self.backend.take_lock(scope, self._open_session)

    def close(self) -> None:
        """Close every pooled connection. A ledger in memory forgets all it held."""
        with self._mutex:
            self._forget()

    # -- opening --------------------------------------------------------------------------------------------

    def _open_session(self) -> Connection:
        """Return a connection outside the pool that commits each statement; whoever asked for it closes it."""
        connection = self._prepare().writer.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()
        return connection

    def _prepare(self) -> _Opened:
        """Connect and check the schema, unless that was done."""
        if (opened := self._still_open()) is not None:
            return opened
        with self._mutex:
            if (opened := self._still_open()) is not None:
                return opened
            self._forget()
            writer, reader = self.backend.connect()
            try:
                self._migrate(writer, reader)
            except BaseException:
                writer.dispose()
                raise
            self._opened = _Opened(self.backend.identity(), os.getpid(), writer, reader)
            return self._opened

    def _still_open(self) -> _Opened | None:
        opened, identity = self._opened, self.backend.identity()
        return opened if opened is not None and identity is not None and opened.identity == identity else None

    def _forget(self) -> None:
        """Drop connections that are of no use any more (the mutex is held)."""
        opened, self._opened = self._opened, None
        if opened is not None:
            # After a fork the connections belong to the parent: leave them open.
            opened.writer.dispose(close=opened.pid == os.getpid())

    def _migrate(self, writer: Engine, reader: Engine) -> None:
        """Bring the tables to this release's version, all of it or nothing; one process at a time."""
        with reader.begin() as connection:
            if self._known_version(connection) == schema.SCHEMA_VERSION:
                return
        with writer.begin() as connection:
            self.backend.lock_schema(connection)
            # Ask again: another process may have done it while this one waited.
            if self._known_version(connection) != schema.SCHEMA_VERSION:
                schema.bring_forward(connection)

    def _known_version(self, connection: Connection) -> int:
        found = schema.version_of(connection)
        if found > schema.SCHEMA_VERSION:
            raise LedgerSchemaError(
                f"the ledger {self.shown} has schema version {found}, which a newer lineage_orch wrote; this "
                f"release knows versions up to {schema.SCHEMA_VERSION}; upgrade it here: "
                "pip install --upgrade lineage_orch (there is no way back: to stay on this release, restore a "
                "backup of the ledger, or name another one)"
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
            cause = getattr(error, "orig", None) or error
            raise LedgerUnavailableError(
                f"the ledger {self.shown} cannot be used: {one_line(cause).rstrip('.')}; {self.backend.hint(cause)}"
            ) from error

    def _recover(self) -> None:
        """Let the next use start afresh, but keep a database that lives in memory."""
        if not self.backend.in_memory:
            with self._mutex, suppress(SQLAlchemyError, sqlite3.Error, OSError):
                self._forget()
