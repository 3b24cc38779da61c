"""The ledger: what was loaded and what was built, in the order of one durable logical clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from lineage_orch.errors import LedgerError
from lineage_orch.ledger import sql
from lineage_orch.ledger.reading import (
    CLOCK,
    EPOCH,
    PRODUCERS,
    Holder,
    Select,
    file_of,
    read_clock,
    read_file,
    read_holder,
    read_known_updates,
    read_mark,
    read_producers,
    read_snapshot,
    read_updates,
)
from lineage_orch.ledger.snapshot import LedgerSnapshot
from lineage_orch.updates import SourceUpdate

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from lineage_orch.ledger.database import Database
    from lineage_orch.ledger.lock import BuildLock

T = TypeVar("T")

_MICROSECOND = timedelta(microseconds=1)
_PRUNE_EVERY = timedelta(days=1)
# In the marks table, beside the marks of users.
_PRUNED = "lineage_orch.pruned_at"
# How many of the newest updates are looked at for the names of producers.
_PRODUCERS_OF = 10_000


class Ledger:
    """What was loaded and built in one dbt project and target, ordered by a logical clock of its own.

    Every method is one transaction: all of it is on the disk when it returns, or none of it ever is. Methods
    may be called from any thread and process. Constructing does no I/O; the first use creates what is missing.

    Args:
        url: ``sqlite:///folder/ledger.db`` (its folder is created), ``sqlite://`` (in memory, this object's
            own), or ``postgresql+psycopg://user:password@host/database``.
        project: The dbt project's name.
        target: The dbt target's name. Each (project, target) has its own clock, facts and lock.
        keep_days: History older than this many days may be pruned; newest facts are kept for ever.

    Raises:
        LedgerUnavailableError: the url cannot be read, here; from every method, that the ledger cannot be
            reached, read or written. The same object works again after the mend.
        LedgerSchemaError: from every method, that a newer release wrote the ledger.
        ValueError: an empty project or target, or a ``keep_days`` below 1.
    """

    def __init__(self, url: str, *, project: str, target: str, keep_days: int = 90) -> None:
        if not project or not target:
            raise ValueError(f"a ledger needs a project and a target, got {project!r} and {target!r}")
        if keep_days < 1:
            raise ValueError(f"keep_days must be 1 or more, got {keep_days!r}")
        self.project = project
        self.target = target
        self.keep_days = keep_days
        self._file = file_of(url)
        self._url = url if self._file is None else f"sqlite:///{self._file}"
        if self._file is None:
            _ = self._database  # a url that cannot be read is told here
        self._scope: dict[str, Any] = {"project": project, "target": target}
        self._memory_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Ledger({self._database.shown!r}, project={self.project!r}, target={self.target!r})"

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def _database(self) -> Database:
        # SQLAlchemy is imported only where read_file is not enough.
        from lineage_orch.ledger.database import Database

        return Database(self._url)

    @property
    def url(self) -> str:
        """The url, with its password hidden."""
        return self._database.shown

    def close(self) -> None:
        """Close all connections; a later use opens them again. A ledger in memory is then empty."""
        if "_database" in vars(self):
            self._database.close()

    # -- loads ----------------------------------------------------------------------------------------------

    def record_updates(self, updates: Iterable[SourceUpdate], *, now: datetime | None = None) -> int:
        """Record loads, each at the next tick, in the order given: all of them or none.

        The same ``(source, update_id)`` twice, in one call or at any time later, is one update and keeps its
        first tick and times.

        Args:
            updates: Loads whose ``source`` is a unique_id, as ``source.package.source_name.table``.
            now: When they are recorded (aware); ``prune`` counts from it. Default: the clock on the wall.

        Returns:
            The tick of the last update given (its first tick, if it was known); the clock's reading if none
            was given.

        Raises:
            LedgerError: a source is no unique_id.
            ValueError: a time without time zone.
        """
        recorded_at = _micros(_now(now), "now")
        rows: list[dict[str, Any]] = [
            {
                "source": _source_id(update.source),
                "update_id": update.update_id,
                "loaded_at": _micros(update.loaded_at, f"loaded_at of the update of {update.source!r}"),
                "recorded_at": recorded_at,
                "flow_run_id": update.flow_run_id,
                "producer": update.producer,
            }
            for update in updates
        ]
        if not rows:
            return self._read(lambda _, __, tick: tick)
        with self._write(ticks=len(rows)) as (connection, clock, reserved):
            tick = last = reserved - len(rows)
            newest: dict[str, int] = {}
            for row in rows:
                row |= {"clock": clock, "tick": tick + 1}
                if self._database.run(connection, sql.ADD_UPDATE, row).rowcount:
                    last = tick = tick + 1
                    newest[row["source"]] = tick
                else:
                    known = {"clock": clock, "source": row["source"], "update_id": row["update_id"]}
                    last = int(self._database.run(connection, sql.TICK_OF_UPDATE, known).fetchone()[0])
            for source, at in newest.items():
                self._database.run(connection, sql.SET_SOURCE, {"clock": clock, "source": source, "tick": at})
            if tick != reserved:
                # Duplicates take no tick; nobody saw the clock meanwhile.
                self._database.run(connection, sql.SET_CLOCK, {"clock": clock, "tick": tick})
            return last

    def register_producers(self, sources: Iterable[str]) -> None:
        """Note that something loads these sources (unique_ids), so that they count as moving.

        Known ones change nothing and cost one read.

        Raises:
            LedgerError: a source is no unique_id.
        """
        wanted = {_source_id(source) for source in sources}
        if not wanted:
            return
        wanted -= self._read(
            lambda select, clock, _: {row[0] for row in select(PRODUCERS, {"clock": clock})},
        )
        if wanted:
            with self._write() as (connection, clock, _):
                rows = [{"clock": clock, "source": each} for each in sorted(wanted)]
                self._database.run(connection, sql.ADD_PRODUCER, rows)

    def producers(self) -> dict[str, list[str]]:
        """Return the sources that have a producer, with the names of those that loaded them of late, newest first.

        A producer that was registered and never loaded has no name here.
        """
        return self._read(lambda select, clock, _: read_producers(select, clock, _PRODUCERS_OF))

    def updates_since(self, tick: int, *, limit: int = 100) -> list[tuple[int, SourceUpdate]]:
        """Return up to ``limit`` updates with a higher tick than this, newest first, each with its tick."""
        return self._read(lambda select, clock, _: read_updates(select, clock, tick, limit))

    def recent_updates(self, limit: int = 20) -> list[tuple[int, SourceUpdate]]:
        """Return the last ``limit`` updates that are still kept, newest first, each with its tick."""
        return self.updates_since(0, limit=limit)

    def known_updates(self, update_ids: Iterable[str]) -> frozenset[str]:
        """Return those of these ids under which an update is kept, of any source."""
        wanted = frozenset(update_ids)
        return self._read(lambda select, clock, _: read_known_updates(select, clock, wanted))

    # -- builds ---------------------------------------------------------------------------------------------

    def begin_build(
        self, *, now: datetime | None = None, history_of: Collection[str] | None = None
    ) -> tuple[int, LedgerSnapshot]:
        """Take the next tick for a build run, and the ledger as it is at that tick.

        The snapshot holds every update with a lower tick and none with a higher one: what lands later stays
        owed. Once a day this also prunes.

        Args:
            now: Decides only whether to prune, and what. Default: the clock on the wall.
            history_of: See :meth:`snapshot`.

        Returns:
            ``(R, snapshot)`` with ``snapshot.tick == R``; record what was built well at R.
        """
        moment = _now(now)
        at = _micros(moment, "now")
        with self._write(ticks=1) as (connection, clock, tick):
            pruned = read_mark(self._selecting(connection), clock, _PRUNED)
            if pruned is None or at - int(pruned) >= _PRUNE_EVERY // _MICROSECOND:
                self._prune(connection, clock, moment)
            return tick, read_snapshot(self._selecting(connection), clock, tick, history_of)

    def snapshot(self, *, history_of: Collection[str] | None = None) -> LedgerSnapshot:
        """Return the ledger at one instant; the clock does not move.

        Args:
            history_of: The source and node ids whose history to load; ``None`` loads all that is kept.
        """
        return self._read(lambda select, clock, tick: read_snapshot(select, clock, tick, history_of))

    def record_built(
        self,
        tick: int,
        node_ids: Iterable[str],
        *,
        built_at: datetime,
        checksums: Mapping[str, str] | None = None,
    ) -> None:
        """Record nodes that were built well in the run of this tick.

        A node's tick never falls: if a later run recorded it already, this one goes into the history only.

        Args:
            tick: The R of :meth:`begin_build`.
            node_ids: unique_ids of models, snapshots and seeds.
            built_at: When they were done (aware).
            checksums: Node id to the checksum of the code it ran; ``None`` is stored for the others.

        Raises:
            LedgerError: the clock never gave out this tick; a higher one would hide updates to come.
            ValueError: ``built_at`` has no time zone.
        """
        if isinstance(node_ids, str):
            raise TypeError(f"node_ids must be a list of ids, got the one string {node_ids!r}")
        at = _micros(built_at, "built_at")
        known = checksums or {}
        nodes = sorted(set(node_ids))
        if not nodes:
            return
        with self._write() as (connection, clock, now):
            if not 1 <= tick <= now:
                raise LedgerError(
                    f"the ledger {self.url} never gave out tick {tick} for {self.project}/{self.target} (its "
                    f"clock is at {now}): use the tick of begin_build; if the ledger was deleted or replaced "
                    "while the build ran, build again"
                )
            rows = [
                {"clock": clock, "node": node, "tick": tick, "built_at": at, "checksum": known.get(node)}
                for node in nodes
            ]
            self._database.run(connection, sql.ADD_BUILD, rows)
            self._database.run(connection, sql.SET_NODE, rows)

    def prune(self, *, now: datetime) -> int:
        """Remove updates and builds older than ``keep_days`` before ``now``; return how many.

        The newest update of a source and the newest build of a node always stay. A pruned ``update_id`` that
        comes once more is a new update: one build too many, never one too few.
        """
        with self._write() as (connection, clock, _):
            return self._prune(connection, clock, now)

    def _prune(self, connection: Connection, clock: int, now: datetime) -> int:
        before = {"clock": clock, "before": _micros(now - timedelta(days=self.keep_days), "now")}
        removed = sum(
            self._database.run(connection, each, before).rowcount for each in (sql.PRUNE_UPDATES, sql.PRUNE_BUILDS)
        )
        mark = {"clock": clock, "name": _PRUNED, "value": str(_micros(now, "now"))}
        self._database.run(connection, sql.SET_MARK, mark)
        return removed

    # -- marks ----------------------------------------------------------------------------------------------

    def mark(self, name: str) -> str | None:
        """Return the value of a mark of this (project, target), such as a watermark; ``None`` if never set."""
        return self._read(lambda select, clock, _: read_mark(select, clock, name))

    def set_mark(self, name: str, value: str) -> None:
        """Set a mark of this (project, target)."""
        with self._write() as (connection, clock, _):
            self._database.run(connection, sql.SET_MARK, {"clock": clock, "name": name, "value": value})

    # -- the build lock -------------------------------------------------------------------------------------

    @contextmanager
    def build_lock(self, who: str) -> Iterator[BuildLock]:
        """Hold the one build lock of this (project, target), or find at once that another has it.

        ::

            with ledger.build_lock(f"pid {os.getpid()} on {host}, flow run {name}") as held:
                if not held:
                    print("taken by", ledger.holder())
                    return
                ...
                held.check()  # in a long build, now and then

        Processes, threads and Ledger objects all exclude each other; the same thread does not get it twice.
        When its holder dies, however that happens, the lock is free. In memory, it is this object's own.

        Args:
            who: Names the holder for people that find it taken.
        """
        from lineage_orch.ledger.lock import BuildLock, take_lock

        held = BuildLock(take_lock(self._database, self._lock_scope(), self._memory_lock))
        try:
            if held:
                with self._write() as (connection, clock, _):
                    since = _micros(datetime.now(UTC), "since")
                    self._database.run(connection, sql.SET_HOLDER, {"clock": clock, "who": who, "since": since})
            yield held
        finally:
            if held:
                try:
                    # A name that stays behind does no harm: it is read only when the lock is taken.
                    with suppress(LedgerError), self._write() as (connection, clock, _):
                        self._database.run(connection, sql.DROP_HOLDER, {"clock": clock})
                finally:
                    held.release()

    def holder(self) -> Holder | None:
        """Return who took the build lock last and did not give it back.

        Ask it after the lock was found taken: a holder that was killed is still named here.
        """
        return self._read(lambda select, clock, _: read_holder(select, clock))

    def _lock_scope(self) -> str:
        # Lengths keep ("a", "b.c") and ("a.b", "c") apart.
        return f"lineage_orch {len(self.project)} {self.project} {self.target}"

    # -- the clock ------------------------------------------------------------------------------------------

    def _read(self, question: Callable[[Select, int, int], T]) -> T:
        """Ask ``question(select, clock id, tick)`` in one read transaction of this scope."""

        def work(select: Select) -> T:
            return question(select, *read_clock(select, self._scope))

        # A ledger that was written to, or that the short way could not read, has its connections open.
        if self._file is not None and "_database" not in vars(self):
            answer = read_file(self._file, work)
            if answer is not None:
                return answer[0]
        with self._database.read() as connection:
            return work(self._selecting(connection))

    def _selecting(self, connection: Connection) -> Select:
        return lambda statement, values: self._database.run(connection, statement, dict(values)).fetchall()

    @contextmanager
    def _write(self, *, ticks: int = 0) -> Iterator[tuple[Connection, int, int]]:
        """One write transaction of this scope, taking so many ticks: (connection, clock id, the last tick).

        Every writer locks the clock's row first, so the writes of one scope run one after the other: ticks
        come in commit order, ``begin_build`` reads one state, and no two writers can deadlock.
        """
        if ticks:
            lock, scope = sql.ADVANCE_CLOCK, self._scope | {"count": ticks}
        else:
            # BEGIN IMMEDIATE locked the whole file on SQLite, which has no FOR UPDATE.
            lock, scope = (CLOCK if self._database.is_sqlite else sql.LOCK_CLOCK), self._scope
        with self._database.write() as connection:
            row = self._database.run(connection, lock, scope).fetchone()
            if row is None:
                self._database.run(connection, sql.NEW_CLOCK, self._scope)
                row = self._database.run(connection, lock, scope).fetchone()
            yield connection, row[0], row[1]


def _source_id(name: str) -> str:
    if not name.startswith("source."):
        raise LedgerError(
            f"the ledger takes sources by their unique_id (source.package.source_name.table), got {name!r}; "
            "resolve it first with Lineage.resolve_source"
        )
    return name


def _now(now: datetime | None) -> datetime:
    return datetime.now(UTC) if now is None else now


def _micros(moment: datetime, what: str) -> int:
    """Exact microseconds since 1970, UTC."""
    if moment.utcoffset() is None:
        raise ValueError(f"{what} has no time zone: {moment!r}; use datetime.now(UTC)")
    if type(moment) is not datetime:
        # Prefect's times are pendulum's, which subtract in a way of their own.
        moment = datetime.fromisoformat(moment.isoformat())
    return (moment - EPOCH) // _MICROSECOND
