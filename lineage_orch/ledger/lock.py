"""The build lock: one build at a time per scope, let go by the engine when its holder dies."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from lineage_orch.errors import LedgerUnavailableError
from lineage_orch.text import one_line

CHECK_SECONDS = 1.0
"""How often, at most, a holder that records nodes as they finish asks whether it still has the lock."""

_LOG = logging.getLogger("lineage_orch.ledger")
# How long a dbt may outlive the build that was killed around it: twice what it is given to end.
_OUTLIVES_SECONDS = 60.0


class LockHandle(Protocol):
    """A lock that this process has, in one of the engines."""

    @property
    def descriptor(self) -> int | None:
        """An open file; a copy of it in another process keeps the lock when this one is killed. None: there is none."""

    def check(self) -> None:
        """Raise LedgerUnavailableError if the lock was lost."""

    def release(self) -> None:
        """Let go. Never raises: a lock that cannot be released is gone already."""


class BuildLock:
    """What ``with ledger.build_lock(...)`` gives: true while the lock is held, false if another has it."""

    def __init__(self, handle: LockHandle | None, of_dbt: LockHandle | None = None) -> None:
        self._handle = handle
        self._of_dbt = of_dbt
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
            if self._of_dbt is not None:
                with _INHERITED_MUTEX:
                    _INHERITED.discard(self._of_dbt)
                self._of_dbt.release()
            handle.release()


# The locks that the processes in which dbt runs keep, should this process be killed.
_INHERITED: set[LockHandle] = set()
_INHERITED_MUTEX = threading.Lock()


@contextmanager
def inherited_locks() -> Iterator[list[int]]:
    """The descriptors that must be passed to whoever ends a dbt of this process, should this process be killed.

    Until that one has ended too, no other build begins. None of them is closed within the block.
    """
    with _INHERITED_MUTEX:
        yield [each.descriptor for each in _INHERITED if each.descriptor is not None]


def take_build_lock(take: Callable[[str], LockHandle | None], scope: str) -> BuildLock:
    """Take the build lock of a scope, or find at once that another has it.

    They are two locks. The first is free when its holder dies, so that whoever comes then builds. The second, which
    :func:`inherited_locks` hands on, is free when no dbt of that holder runs any more: the next holder waits for that.

    Args:
        take: Takes a lock without waiting, by its name; None if another has it.
        scope: What the lock is for.
    """
    handle = take(scope)
    if handle is None:
        return BuildLock(None)
    try:
        deadline = time.monotonic() + _OUTLIVES_SECONDS
        of_dbt = take(f"{scope} dbt")
        if of_dbt is None:
            _LOG.warning("A build was killed, and its dbt is about to end; waiting for that.")
        while of_dbt is None and time.monotonic() < deadline:
            time.sleep(0.1)
            of_dbt = take(f"{scope} dbt")
    except BaseException:
        handle.release()
        raise
    if of_dbt is None:
        handle.release()
        return BuildLock(None)
    with _INHERITED_MUTEX:
        _INHERITED.add(of_dbt)
    return BuildLock(handle, of_dbt)


# -- in memory -------------------------------------------------------------------------------------------------


def take_memory_lock(lock: threading.Lock) -> LockHandle | None:
    """Take the lock of a ledger that only one object can see; ``None`` if another thread has it."""
    return _MemoryLock(lock) if lock.acquire(blocking=False) else None


class _MemoryLock:
    descriptor = None

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
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise LedgerUnavailableError(
            f"the build lock of the ledger {shown} needs filelock: pip install 'lineage_orch[dbt]'"
        ) from error
    # One ledger that is reached by two names has one lock.
    real = Path(os.path.realpath(path))
    lock_path = real.with_name(f"{real.name}.{hashlib.sha256(scope.encode()).hexdigest()[:12]}.lock")
    descriptors: list[int] = []
    lock = FileLock(
        lock_path,
        # Whoever ends the block may release it, in any thread.
        thread_local=False,
        mode=os.stat(real).st_mode & 0o666,
        # With this it does not fall back to a marker file, which a kill would leave behind.
        on_acquired=descriptors.append,
    )
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        raise LedgerUnavailableError(
            f"the build lock of the ledger {shown} cannot be taken: {lock_path.parent} is on a file "
            "system without file locks; keep the ledger on a local disk, or use PostgreSQL"
        ) from error
    return _FileLock(lock_path, descriptors[0], lock.release, shown)


class _FileLock:
    def __init__(self, path: Path, descriptor: int, release: Callable[[], None], shown: str) -> None:
        self._path = path
        self.descriptor = descriptor
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

    @property
    def descriptor(self) -> int | None:
        # While a copy of its socket is open, the server does not see that this end is gone.
        with self._mutex:
            psycopg: Any = self._session.connection.dbapi_connection
            return None if psycopg is None or psycopg.closed else int(psycopg.fileno())

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
