"""The build lock: one build at a time per (project, target), let go by the engine when its holder dies."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from lineage_orch.errors import LedgerUnavailableError
from lineage_orch.ledger.database import Database


class Grip(Protocol):
    """A lock that this process has, in one of the engines."""

    def check(self) -> None:
        """Raise LedgerUnavailableError if the lock was lost."""

    def release(self) -> None:
        """Let go. Never raises: a lock that cannot be released is gone already."""


class BuildLock:
    """What ``with ledger.build_lock(...)`` gives: true while the lock is held, false if another has it."""

    def __init__(self, grip: Grip | None) -> None:
        self._grip = grip

    def __bool__(self) -> bool:
        return self._grip is not None

    def check(self) -> None:
        """Make sure that the lock is still held; call it now and then in a long build. Any thread may.

        A lock can be lost under its holder: the server restarts, the connection breaks, someone deletes the
        lock file. From then on another build may run, so this one should stop.

        Raises:
            LedgerUnavailableError: the lock was lost, or is not held at all.
        """
        if self._grip is None:
            raise LedgerUnavailableError("the build lock is not held; check it inside its with block")
        self._grip.check()

    def release(self) -> None:
        """Let go; from now on this is false. Does nothing the second time."""
        grip, self._grip = self._grip, None
        if grip is not None:
            grip.release()


def take_lock(database: Database, scope: str, in_memory: threading.Lock) -> Grip | None:
    """Take the lock of ``scope`` without waiting; ``None`` if any process or thread has it.

    ``in_memory`` stands for the lock of a ledger that only this object can see.

    Raises:
        LedgerUnavailableError: the engine could not be asked.
    """
    if not database.is_sqlite:
        return _take_advisory(database, scope)
    if database.path is None:
        return _MemoryGrip(in_memory) if in_memory.acquire(blocking=False) else None
    return _take_file(database, database.path, scope)


class _MemoryGrip:
    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def check(self) -> None:
        pass

    def release(self) -> None:
        self._lock.release()


def _take_file(database: Database, path: Path, scope: str) -> Grip | None:
    """Lock a file beside the SQLite file: the kernel drops the lock with the process, however that ends.

    The lock file stays for ever: deleting it would let two builds hold two files of one name.
    """
    try:
        from filelock import FileLock, SoftFileLock, Timeout
    except ImportError as error:
        raise LedgerUnavailableError(
            f"the build lock of the ledger {database.shown} needs filelock: pip install 'lineage_orch[dbt]'"
        ) from error
    with database.read():
        pass  # creates the folder, and finds out whether the ledger can be used at all
    # One ledger that is reached by two names has one lock.
    real = Path(os.path.realpath(path))
    lock_path = real.with_name(f"{real.name}.{hashlib.sha256(scope.encode()).hexdigest()[:12]}.lock")
    # Not thread-local: whoever ends the block may release it.
    lock = FileLock(lock_path, thread_local=False)
    held = True
    try:
        lock.acquire(blocking=False)
    except Timeout:
        held = False
    except (OSError, NotImplementedError) as error:
        raise database.unavailable(error) from error
    # Where the file system has no locks, filelock falls back to a marker file, which a kill leaves behind.
    if isinstance(lock, SoftFileLock):
        lock.release()
        raise LedgerUnavailableError(
            f"the build lock of the ledger {database.shown} cannot be taken: {lock_path.parent} is on a file "
            "system without file locks; keep the ledger on a local disk, or use PostgreSQL"
        )
    return _FileGrip(database, lock_path, lock.release) if held else None


class _FileGrip:
    def __init__(self, database: Database, path: Path, release: Callable[[], None]) -> None:
        self._database = database
        self._path = path
        self._release = release
        self._file = self._identity()

    def _identity(self) -> tuple[int, int]:
        stat = os.stat(self._path)
        return stat.st_dev, stat.st_ino

    def check(self) -> None:
        with suppress(OSError):
            if self._identity() == self._file:
                return
        raise LedgerUnavailableError(
            f"the build lock of the ledger {self._database.shown} was lost: {self._path} was deleted or "
            "replaced while the build ran; stop this build, leave that file alone, and build again"
        )

    def release(self) -> None:
        with suppress(OSError):
            self._release()


def _take_advisory(database: Database, scope: str) -> Grip | None:
    """Take a session's advisory lock on PostgreSQL, on a connection kept for it alone.

    The server drops the lock when the connection ends. It needs a session of its own: a pooler between
    (pgbouncer) must pool sessions, not transactions.
    """
    key = int.from_bytes(hashlib.sha256(scope.encode()).digest()[:8], "big", signed=True)
    connection = database.dedicated()
    try:
        with database.plain_words():
            # The server must notice within a minute that the holder's machine is gone, and must not end the
            # session because a long build leaves it idle.
            connection.execute(
                text(
                    "SELECT set_config('tcp_keepalives_idle', '30', false), "
                    "set_config('tcp_keepalives_interval', '10', false), "
                    "set_config('tcp_keepalives_count', '3', false)"
                )
            )
            # Known since PostgreSQL 14.
            connection.execute(
                text("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'")
            )
            held = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar()
    except BaseException:
        connection.close()
        raise
    if held:
        return _AdvisoryGrip(database, connection, key)
    connection.close()
    return None


class _AdvisoryGrip:
    # The two halves of the key, as pg_locks shows them.
    _MINE = text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid() "
        "AND objsubid = 1 AND classid::bigint = :high AND objid::bigint = :low"
    )

    def __init__(self, database: Database, connection: Connection, key: int) -> None:
        self._database = database
        self._connection = connection
        self._key = key
        # A connection serves one thread at a time.
        self._mutex = threading.Lock()

    def check(self) -> None:
        halves = {"high": (self._key >> 32) & 0xFFFFFFFF, "low": self._key & 0xFFFFFFFF}
        cause: SQLAlchemyError | None = None
        with self._mutex:
            try:
                if self._connection.execute(self._MINE, halves).scalar():
                    return
            except SQLAlchemyError as error:
                cause = error
        reason = " ".join(str(getattr(cause, "orig", None) or cause or "the session does not hold it").split())
        raise LedgerUnavailableError(
            f"the build lock of the ledger {self._database.shown} was lost: {reason}; stop this build, check "
            "the server and the network (a pooler between must pool sessions), and build again"
        ) from cause

    def release(self) -> None:
        with self._mutex:
            # Unlock before closing: the server ends a closed session a little later, and whoever comes in
            # between would leave without a build.
            with suppress(SQLAlchemyError):
                self._connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})
            with suppress(SQLAlchemyError):
                self._connection.close()
