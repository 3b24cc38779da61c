"""The build lock: one build at a time per scope, let go by the engine when its holder dies."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from lineage_orch.errors import LedgerUnavailableError
from lineage_orch.text import one_line

CHECK_SECONDS = 1.0
"""How often, at most, a holder that records nodes as they finish asks whether it still has the lock."""


class LockHandle(Protocol):
    """A lock that this process has, in one of the engines."""

    def check(self) -> None:
        """Raise LedgerUnavailableError if the lock was lost."""

    def release(self) -> None:
        """Let go. Never raises: a lock that cannot be released is gone already."""


class BuildLock:
    """What ``with ledger.build_lock(...)`` gives: true while the lock is held, false if another has it."""

    def __init__(self, handle: LockHandle | None) -> None:
        self._handle = handle
        self._checked = time.monotonic()
        self._lost: LedgerUnavailableError | None = None

    def __bool__(self) -> bool:
        return self._handle is not None

    def check(self) -> None:
        """Make sure that the lock is still held. Any thread may call it.

        A lock can be lost under its holder: the server restarts, the connection breaks, someone deletes the
        lock file. From then on another build may run, so this one must stop, and record nothing more. A lock
        that was lost stays lost.

        Raises:
            LedgerUnavailableError: the lock was lost, or is not held at all.
        """
        if self._handle is None:
            raise LedgerUnavailableError("the build lock is not held; check it inside its with block")
        if self._lost is not None:
            raise self._lost
        self._checked = time.monotonic()
        try:
            self._handle.check()
        except LedgerUnavailableError as error:
            self._lost = error
            raise

    def check_now_and_then(self) -> None:
        """As :meth:`check`, but ask the engine at most once in ``CHECK_SECONDS``: cheap enough for each node.

        Raises:
            LedgerUnavailableError: the lock was lost, or is not held at all.
        """
        if self._handle is None or self._lost is not None or time.monotonic() - self._checked >= CHECK_SECONDS:
            self.check()

    def release(self) -> None:
        """Let go; from now on this is false. Does nothing the second time."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.release()


# -- in memory -------------------------------------------------------------------------------------------------


def take_memory_lock(lock: threading.Lock) -> LockHandle | None:
    """Take the lock of a ledger that only one object can see; ``None`` if another thread has it."""
    return _MemoryLock(lock) if lock.acquire(blocking=False) else None


class _MemoryLock:
    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def check(self) -> None:
        pass

    def release(self) -> None:
        self._lock.release()


# -- beside a SQLite file --------------------------------------------------------------------------------------


def take_file_lock(path: Path, scope: str, shown: str) -> LockHandle | None:
    """Lock a file beside the SQLite file: the kernel drops the lock with the process, however that ends.

    The lock file stays for ever: deleting it would let two builds hold two files of one name. Who may use the
    ledger may use its lock: it has the rights of the SQLite file.

    Args:
        path: The SQLite file, which exists.
        scope: What the lock is for.
        shown: The ledger's name in messages.

    Raises:
        OSError: the lock file cannot be opened.
        LedgerUnavailableError: filelock is not installed, or the file system has no locks.
    """
    try:
        from filelock import FileLock, SoftFileLock, Timeout
    except ImportError as error:
        raise LedgerUnavailableError(
            f"the build lock of the ledger {shown} needs filelock: pip install 'lineage_orch[dbt]'"
        ) from error
    # One ledger that is reached by two names has one lock.
    real = Path(os.path.realpath(path))
    lock_path = real.with_name(f"{real.name}.{hashlib.sha256(scope.encode()).hexdigest()[:12]}.lock")
    # Not thread-local: whoever ends the block may release it.
    lock = FileLock(lock_path, thread_local=False, mode=os.stat(real).st_mode & 0o666)
    held = True
    no_locks = False
    try:
        lock.acquire(blocking=False)
    except Timeout:
        held = False
    except NotImplementedError:
        no_locks = True
    # Where the file system has no locks, filelock falls back to a marker file, which a kill leaves behind.
    if isinstance(lock, SoftFileLock):
        lock.release()
        no_locks = True
    if no_locks:
        raise LedgerUnavailableError(
            f"the build lock of the ledger {shown} cannot be taken: {lock_path.parent} is on a file "
            "system without file locks; keep the ledger on a local disk, or use PostgreSQL"
        )
    return _FileLock(lock_path, lock.release, shown) if held else None


class _FileLock:
    def __init__(self, path: Path, release: Callable[[], None], shown: str) -> None:
        self._path = path
        self._release = release
        self._shown = shown
        self._file = self._identity()

    def _identity(self) -> tuple[int, int]:
        stat = os.stat(self._path)
        return stat.st_dev, stat.st_ino

    def check(self) -> None:
        with suppress(OSError):
            if self._identity() == self._file:
                return
        raise LedgerUnavailableError(
            f"the build lock of the ledger {self._shown} was lost: {self._path} was deleted or "
            "replaced while the build ran; stop this build, do not touch that file, and build again"
        )

    def release(self) -> None:
        with suppress(OSError):
            self._release()


# -- on PostgreSQL ---------------------------------------------------------------------------------------------


def take_advisory_lock(session: Connection, scope: str, shown: str) -> LockHandle | None:
    """Take an advisory lock of a PostgreSQL session, which the handle then owns and closes.

    The server drops the lock when the session ends. A pooler between (pgbouncer) must pool sessions, not
    transactions.

    Args:
        session: A connection for this lock alone, which commits each statement.
        scope: What the lock is for.
        shown: The ledger's name in messages.

    Raises:
        SQLAlchemyError: the server could not be asked.
    """
    key = int.from_bytes(hashlib.sha256(scope.encode()).digest()[:8], "big", signed=True)
    try:
        # The server must notice within a minute that the holder's machine is gone, and must not end the
        # session because a long build leaves it idle.
        session.execute(
            text(
                "SELECT set_config('tcp_keepalives_idle', '30', false), "
                "set_config('tcp_keepalives_interval', '10', false), "
                "set_config('tcp_keepalives_count', '3', false)"
            )
        )
        # Known since PostgreSQL 14.
        session.execute(
            text("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'")
        )
        held = session.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar()
    except BaseException:
        session.close()
        raise
    if held:
        return _AdvisoryLock(session, key, shown)
    session.close()
    return None


class _AdvisoryLock:
    # The two halves of the key, as pg_locks shows them.
    _MINE = text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid() "
        "AND objsubid = 1 AND classid::bigint = :high AND objid::bigint = :low"
    )

    def __init__(self, session: Connection, key: int, shown: str) -> None:
        self._session = session
        self._key = key
        self._shown = shown
        # A connection serves one thread at a time.
        self._mutex = threading.Lock()

    def check(self) -> None:
        halves = {"high": (self._key >> 32) & 0xFFFFFFFF, "low": self._key & 0xFFFFFFFF}
        cause: SQLAlchemyError | None = None
        with self._mutex:
            try:
                if self._session.execute(self._MINE, halves).scalar():
                    return
            except SQLAlchemyError as error:
                cause = error
        reason = one_line(getattr(cause, "orig", None) or cause or "the session does not hold it")
        raise LedgerUnavailableError(
            f"the build lock of the ledger {self._shown} was lost: {reason}; stop this build, check "
            "the server and the network (a pooler between must pool sessions), and build again"
        ) from cause

    def release(self) -> None:
        with self._mutex:
            # Unlock before closing: the server ends a closed session a little later, and whoever comes in
            # between would leave without a build.
            with suppress(SQLAlchemyError):
                self._session.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})
            with suppress(SQLAlchemyError):
                self._session.close()
