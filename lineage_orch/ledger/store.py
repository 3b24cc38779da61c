"""The ledger: what was loaded and what was built, in the order of one durable logical clock."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from statistics import median
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from lineage_orch.errors import LedgerError
from lineage_orch.ledger import launches as of_followers
from lineage_orch.ledger import relations
from lineage_orch.ledger.database import Database
from lineage_orch.ledger.extents import EXTENT_COLUMNS, extent_in, extent_values, extents_above
from lineage_orch.ledger.lock import BuildLock, take_build_lock
from lineage_orch.ledger.others import BuiltElsewhere, Origin, Place, Published, ReadElsewhere
from lineage_orch.ledger.pauses import read_pauses, rows_of
from lineage_orch.ledger.schema import (
    builds,
    debts,
    failed,
    failures,
    holders,
    identities,
    launches,
    marks,
    nodes,
    pauses,
    producers,
    runs,
    scopes,
    sources,
    untested,
    updates,
)
from lineage_orch.ledger.snapshot import (
    OPEN,
    UNCHANGED,
    Built,
    Extent,
    Failed,
    Failure,
    History,
    Holder,
    Launch,
    LedgerSnapshot,
    Load,
    Moment,
    NodeFact,
    Pause,
    Untested,
)
from lineage_orch.text import few
from lineage_orch.updates import LastLoad, SourceUpdate, Window

T = TypeVar("T")
# What history a snapshot is to hold: of all, of these ids, or of these above the last good builds of these nodes.
HistoryOf = Collection[str] | Mapping[str, Collection[str]] | None

_LONG_AGO = datetime(1, 1, 2, tzinfo=UTC)
_PRUNE_EVERY = timedelta(days=1)
# In the marks table, beside the marks of users.
_PRUNED = "lineage_orch.pruned"
# The tick of the newest change with a window that was pruned.
_PRUNED_WINDOW = "lineage_orch.pruned_window"
# How many of the newest updates are looked at for the names of producers.
_PRODUCERS_OF = 10_000
# How many ids go into one IN (...): far below the limits of the engines.
_CHUNK = 1000
# How many runs an object knows the random ids of; one is under way at a time.
_RUNS_REMEMBERED = 100
# How many of the last builds of a node tell how long it takes.
_TIMED = 10
# How many loads that a node has not taken in are looked at for the oldest.
_FIRST_LOADS = 1000
# What is kept of a failure's message, in characters: it is shown in one line.
_MESSAGE = 2000

_BUILD_COLUMNS = ("changed_tick", "built_at", "checksum", "identity", "seconds", "row_count")
_NODE_COLUMNS = ("tick", *_BUILD_COLUMNS, "content")
_UNTESTED_COLUMNS = ("tick", "built_at", "identity", "cleared_tick")


class _Scope:
    """The clock of a ledger within one transaction; id 0: nothing was written to it yet."""

    def __init__(self, connection: Connection, scope_id: int, tick: int, place: str = "") -> None:
        self.place = place
        self.connection = connection
        self.id = scope_id
        self.tick = tick

    def next_tick(self) -> int:
        """Take the next tick; whoever opened the transaction to write keeps it."""
        self.tick += 1
        return self.tick

    def chunks(self, query: Select[Any], column: Column[Any], ids: Iterable[str] | None) -> Iterator[Row[Any]]:
        """Yield the rows of a query for these ids in a column, some ids at a time; without a condition for None."""
        if ids is None:
            yield from self.connection.execute(query)
            return
        for some in _some(ids):
            yield from self.connection.execute(query.where(column.in_(some)))

    def delete(self, table: Table, column: Column[Any], ids: Iterable[str], *also: ColumnElement[bool]) -> set[str]:
        """Delete the rows with these ids in a column; return the ids that had any."""
        found: set[str] = set()
        for some in _some(ids):
            mine = and_(table.c.scope_id == self.id, column.in_(some), *also)
            found.update(self.connection.execute(select(column).where(mine)).scalars())
            self.connection.execute(delete(table).where(mine))
        return found


class Ledger:
    """What was loaded and built in one scope (dbt project, target and place), ordered by a clock of its own.

    Every method is one transaction: all of it is on the disk when it returns, or none of it ever is. Methods
    may be called from any thread and process. Constructing does no I/O; the first use creates what is missing.

    A ledger with a place that finds facts of its project and target without a place, and none of its own, takes
    them over with its first write: 0.1.0 knew no places.

    Args:
        url: ``sqlite:///folder/ledger.db`` (its folder is created), ``sqlite://`` (in memory, this object's
            own), or ``postgresql+psycopg://user:password@host/database``.
        project: The dbt project's name.
        target: The dbt target's name.
        place: Where the target builds, as ``database.schema``: two people whose targets have one name and two
            schemas do not mark each other's nodes as built. ``None``: the only one that this ledger knows of the
            project and target; ``""`` where it knows none.
        keep_days: History older than this many days may be pruned; newest facts are kept for ever.

    Raises:
        LedgerUnavailableError: the url cannot be read, here; from every method, that the ledger cannot be
            reached, read or written. The same object works again once that is repaired.
        LedgerSchemaError: from every method, that a newer release wrote the ledger.
        ValueError: an empty project or target, or a ``keep_days`` below 1.
    """

    def __init__(self, url: str, *, project: str, target: str, place: str | None = None, keep_days: int = 90) -> None:
        if not project or not target:
            raise ValueError(f"a ledger needs a project and a target, got {project!r} and {target!r}")
        if keep_days < 1:
            raise ValueError(f"keep_days must be 1 or more, got {keep_days!r}")
        self.project = project
        self.target = target
        self.place = place
        self.keep_days = keep_days
        self._database = Database(url)
        self._runs: dict[int, str] = {}
        self._runs_mutex = threading.Lock()

    def __repr__(self) -> str:
        place = f", place={self.place!r}" if self.place else ""
        return f"Ledger({self._database.shown!r}, project={self.project!r}, target={self.target!r}{place})"

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The url, with its password hidden."""
        return self._database.shown

    def close(self) -> None:
        """Close all connections; a later use opens them again. A ledger in memory is then empty."""
        self._database.close()

    # -- loads ----------------------------------------------------------------------------------------------

    def record_updates(
        self, given: Iterable[SourceUpdate], *, now: datetime | None = None, baseline: bool = False
    ) -> int:
        """Record loads, each at the next tick, in the order given: all of them or none.

        The same ``(source, update_id)`` twice, in one call or at any time later, is one update and keeps its
        first tick and times. A source that is no unique_id is kept as it was given, as ``snapshot.unresolved``
        shows, until :meth:`resolve_names` says what it means: recording needs no manifest.

        A load with the fingerprint of the source's last load is recorded, and moves its source to no new tick: nothing
        is stale for it. It counts as new where that is in doubt: one of the two has no fingerprint, or a load is
        reported after a later one, or begun before its end; or something was built while the table may have been half
        written, between the load's begin and its end.

        Args:
            given: The loads.
            now: When they are recorded (aware); ``prune`` counts from it. Default: the clock on the wall.
            baseline: They only declare what stands in the warehouse, and do not show that a source moves.

        Returns:
            The tick of the last update given (its first tick, if it was known); the clock's reading if none
            was given.

        Raises:
            ValueError: a time without time zone.
        """
        recorded_at = _utc(now, "now")
        given = list(given)
        told: dict[tuple[str, str], set[str | None]] = {}
        for each in given:
            told.setdefault((each.source, each.update_id), set()).add(each.fingerprint)
        rows = [
            {
                "source": each.source,
                "update_id": each.update_id,
                "loaded_at": _utc(each.loaded_at, f"loaded_at of the update of {each.source!r}"),
                "recorded_at": recorded_at,
                "flow_run_id": each.flow_run_id,
                "producer": each.producer,
                # A run that loaded it in two parts, under two of its names: neither is the fingerprint of the table.
                "fingerprint": each.fingerprint if len(told[each.source, each.update_id]) == 1 else None,
                "began_at": None if each.began_at is None else _utc(each.began_at, f"began_at of {each.source!r}"),
                "given": None if _is_source(each.source) else each.source,
                "baseline": baseline,
                "window_start": each.window and each.window.start,
                "window_end": each.window and each.window.end,
            }
            for each in given
        ]
        if not rows:
            return self._read(lambda scope: scope.tick)
        with self._write() as scope:
            return self._add_updates(scope, rows)

    def _add_updates(self, scope: _Scope, rows: Sequence[dict[str, Any]]) -> int:
        """Add updates at the next ticks, but those that are known; return the tick of the last."""
        known = {
            (row.update_id, row.source): row.tick
            for row in scope.chunks(
                select(updates.c.update_id, updates.c.source, updates.c.tick).where(updates.c.scope_id == scope.id),
                updates.c.update_id,
                {row["update_id"] for row in rows},
            )
        }
        last = scope.tick
        added: list[dict[str, Any]] = []
        whole: dict[tuple[str, str], Extent] = {}
        for row in rows:
            # A run that loaded it in two parts, under two of its names, is one update of both windows.
            start, end = row["window_start"], row["window_end"]
            part = OPEN if start is None else Extent(Window(start, end))
            key = (row["update_id"], row["source"])
            whole[key] = whole.get(key, UNCHANGED) | part
        newest = {
            row.source: row._asdict()
            for row in scope.chunks(
                select(sources).where(sources.c.scope_id == scope.id),
                sources.c.source,
                {row["source"] for row in rows},
            )
        }
        for row in rows:
            source, load = row["source"], (row["loaded_at"], row["fingerprint"], row["began_at"])
            if (key := (row["update_id"], source)) not in known:
                known[key] = scope.next_tick()
                of_source = newest.get(source) or {"source": source, "baseline": True, **LastLoad()._asdict()}
                before = LastLoad(of_source["loaded_at"], of_source["fingerprint"])
                unchanged = before.is_repeated_by(*load) and not self._is_built_within(scope, load[2], load[0])
                window = None if whole[key].is_open else whole[key].window
                start, end = window or (None, None)
                row |= {"window_start": start, "window_end": end, "unchanged": unchanged}
                added.append({"scope_id": scope.id, "tick": known[key], **row})
                newest[source] = of_source | before.then(*load)._asdict() | {"scope_id": scope.id}
                if not unchanged:
                    # A baseline does not make a source rest that moved before.
                    newest[source] |= {"tick": known[key], "baseline": of_source["baseline"] and row["baseline"]}
            last = known[key]
        if added:
            scope.connection.execute(insert(updates), added)
            changed = [newest[source] for source in {row["source"]: None for row in added}]
            self._upsert(scope, sources, changed, "tick", "loaded_at", "baseline", "fingerprint")
        return last

    def _is_built_within(self, scope: _Scope, began_at: datetime | None, ended_at: datetime) -> bool:
        """Whether some last build of a node may have read what a load had half written; or one may that runs now.

        Its run began before the load ended, and it was done after the load began.
        """
        at_work = holders.c.scope_id == scope.id, holders.c.since < ended_at
        conditions = [exists().where(*at_work)]
        for table in (nodes, untested):
            read_within = (
                table.c.scope_id == scope.id,
                table.c.built_at > min(began_at or ended_at, ended_at),
                runs.c.scope_id == scope.id,
                runs.c.tick == table.c.tick,
                runs.c.begun_at < ended_at,
            )
            conditions.append(exists().where(*read_within))
        return bool(scope.connection.execute(select(or_(*conditions))).scalar())

    def resolve_names(self, meanings: Mapping[str, Sequence[str]], *, now: datetime | None = None) -> None:
        """Say which sources a name means under which updates were recorded: they become updates of these.

        Each takes a tick of its own and keeps its times; one whose ``(source, update_id)`` is known already is
        dropped. The name is then no longer in ``snapshot.unresolved``, and an update under it and a known
        update_id, that comes once more, is still the one that was.

        Args:
            meanings: Name, as it was given, to unique_ids of sources; an empty list leaves the name as it is.
            now: When this happens (aware). Default: the clock on the wall.

        Raises:
            LedgerError: a meaning is no unique_id of a source.
        """
        recorded_at = _utc(now, "now")
        wanted = {name: list(dict.fromkeys(meaning)) for name, meaning in meanings.items() if meaning}
        for name, meaning in wanted.items():
            for source in meaning:
                if not _is_source(source):
                    raise LedgerError(
                        f"{name!r} cannot mean {source!r}, which is no unique_id of a source "
                        "(source.package.source_name.table)"
                    )
        wanted = {name: meaning for name, meaning in wanted.items() if not _is_source(name)}
        if not wanted:
            return
        columns = [
            each.name
            for each in updates.c
            if each.name not in ("scope_id", "tick", "recorded_at", "resolved_tick", "unchanged")
        ]
        with self._write() as scope:
            waiting = and_(updates.c.scope_id == scope.id, updates.c.resolved_tick.is_(None))
            rows = sorted(
                scope.chunks(
                    select(updates.c.tick, *(updates.c[name] for name in columns)).where(waiting),
                    updates.c.source,
                    wanted,
                ),
                key=lambda row: row.tick,
            )
            self._add_updates(
                scope,
                [
                    {name: getattr(row, name) for name in columns} | {"source": source, "recorded_at": recorded_at}
                    for row in rows
                    for source in wanted[row.source]
                ],
            )
            for some in _some(wanted):
                scope.connection.execute(
                    update(updates).where(waiting, updates.c.source.in_(some)).values(resolved_tick=scope.tick)
                )
            scope.delete(sources, sources.c.source, wanted)

    def register_producers(self, names: Iterable[str]) -> None:
        """Note that something loads these sources, so that they count as moving.

        Known ones change nothing and cost one read.

        Args:
            names: unique_ids of sources; or wildcards, templates and other names, which are kept as given
                (``snapshot.producer_patterns``).
        """
        wanted = set(names)
        if not wanted:
            return
        wanted -= self._read(lambda scope: set(scope.connection.execute(_names_of_producers(scope.id)).scalars()))
        if wanted:
            with self._write() as scope:
                scope.connection.execute(
                    self._database.backend.insert_new(producers),
                    [{"scope_id": scope.id, "source": each} for each in sorted(wanted)],
                )

    def producers(self) -> dict[str, list[str]]:
        """Return the sources that have a producer, with the names of those that loaded them of late, newest first.

        A producer that was registered and never loaded has no name here. What is no unique_id stands as given.
        """

        def question(scope: _Scope) -> dict[str, list[str]]:
            registered = scope.connection.execute(_names_of_producers(scope.id)).scalars()
            found: dict[str, list[str]] = {each: [] for each in sorted(registered)}
            recent = (
                select(updates.c.source, updates.c.producer, updates.c.tick)
                .where(updates.c.scope_id == scope.id, updates.c.resolved_tick.is_(None))
                .order_by(updates.c.tick.desc())
                .limit(_PRODUCERS_OF)
                .subquery()
            )
            for source, producer in scope.connection.execute(
                select(recent.c.source, recent.c.producer)
                .where(recent.c.producer.is_not(None))
                .group_by(recent.c.source, recent.c.producer)
                .order_by(func.max(recent.c.tick).desc())
            ):
                found.setdefault(source, []).append(producer)
            return found

        return self._read(question)

    def updates_since(self, tick: int, *, limit: int = 100) -> list[tuple[int, SourceUpdate]]:
        """Return up to ``limit`` updates with a higher tick than this, newest first, each with its tick.

        One whose name was resolved since stands under its sources, at their ticks.
        """

        def question(scope: _Scope) -> list[tuple[int, SourceUpdate]]:
            columns = (updates.c[each.name] for each in fields(SourceUpdate))
            rows = scope.connection.execute(
                select(updates.c.tick, *columns)
                .where(updates.c.scope_id == scope.id, updates.c.tick > tick, updates.c.resolved_tick.is_(None))
                .order_by(updates.c.tick.desc())
                .limit(limit)
            )
            return [(at, SourceUpdate(*rest)) for at, *rest in rows]

        return self._read(question)

    def recent_updates(self, limit: int = 20) -> list[tuple[int, SourceUpdate]]:
        """Return the last ``limit`` updates that are still kept, newest first, each with its tick."""
        return self.updates_since(0, limit=limit)

    def history(self, since: datetime, *, limit: int = 20_000) -> History:
        """Return what was loaded, built and failed since a time, in one instant.

        Args:
            since: From when (aware).
            limit: How many of the newest loads, of the newest builds of nodes, and of their failures, at most.
        """
        start = _utc(since, "since")

        def question(scope: _Scope) -> History:
            ask = scope.connection.execute
            loads = ask(
                select(*_load_columns())
                .where(updates.c.scope_id == scope.id, updates.c.loaded_at >= start, updates.c.resolved_tick.is_(None))
                .order_by(updates.c.tick.desc())
                .limit(limit)
            ).all()
            built = ask(
                select(builds)
                .where(builds.c.scope_id == scope.id, builds.c.built_at >= start)
                .order_by(builds.c.tick.desc(), builds.c.built_at.desc(), builds.c.node)
                .limit(limit)
            ).all()
            begun = ask(select(runs.c.tick, runs.c.begun_at, runs.c.who).where(runs.c.scope_id == scope.id)).all()
            bad = ask(
                select(failed.c.tick, failed.c.node, failed.c.failed_at, failed.c.times, failed.c.message)
                .where(failed.c.scope_id == scope.id, failed.c.failed_at >= start)
                .order_by(failed.c.tick.desc(), failed.c.node.desc())
                .limit(limit)
            ).all()
            return History(
                [_load(row) for row in reversed(loads)],
                {row.tick: row.begun_at for row in begun},
                [
                    Built(row.tick, row.node, row.built_at, row.seconds, row.changed_tick == row.tick, extent_in(row))
                    for row in reversed(built)
                ],
                [Failed(*row) for row in reversed(bad)],
                {row.tick: row.who for row in begun if row.who is not None},
            )

        return self._read(question)

    def recent_loads(self, above: Mapping[str, int], *, limit: int = 20) -> dict[str, list[Load]]:
        """Return the last loads of sources, each source's newest first; a source of which none is kept is left out.

        Args:
            above: Source to the tick above which its loads are asked for.
            limit: How many of each source, at most.
        """
        query = (
            select(*_load_columns())
            .where(updates.c.scope_id == bindparam("its_scope"), updates.c.source == bindparam("its"))
            .where(updates.c.tick > bindparam("above"))
            .order_by(updates.c.tick.desc())
            .limit(limit)
        )

        def question(scope: _Scope) -> dict[str, list[Load]]:
            ask = scope.connection.execute
            found = {
                source: [_load(row) for row in ask(query, {"its_scope": scope.id, "its": source, "above": tick})]
                for source, tick in above.items()
            }
            return {source: loads for source, loads in found.items() if loads}

        return self._read(question)

    def loads_since(self, tick: int, *, limit: int = 100) -> list[Load]:
        """Return up to ``limit`` loads with a higher tick than this, newest first.

        One whose name was resolved since stands under its sources, at their ticks.
        """
        query = select(*_load_columns()).where(updates.c.tick > tick, updates.c.resolved_tick.is_(None))

        def question(scope: _Scope) -> list[Load]:
            newest = query.where(updates.c.scope_id == scope.id).order_by(updates.c.tick.desc()).limit(limit)
            return [_load(row) for row in scope.connection.execute(newest)]

        return self._read(question)

    def known_updates(self, update_ids: Iterable[str]) -> frozenset[str]:
        """Return those of these ids under which an update is kept, of any source."""
        query = select(updates.c.update_id).distinct()

        def question(scope: _Scope) -> frozenset[str]:
            mine = query.where(updates.c.scope_id == scope.id)
            return frozenset(row.update_id for row in scope.chunks(mine, updates.c.update_id, update_ids))

        return self._read(question)

    def unchanged_by(self, update_ids: Iterable[str]) -> tuple[str, ...]:
        """Return the sources to which updates with these ids brought nothing new, by their fingerprints; sorted."""
        query = select(updates.c.update_id, updates.c.source)

        def question(scope: _Scope) -> tuple[str, ...]:
            mine = query.where(updates.c.scope_id == scope.id, updates.c.unchanged, updates.c.resolved_tick.is_(None))
            return tuple(sorted({row.source for row in scope.chunks(mine, updates.c.update_id, update_ids)}))

        return self._read(question)

    # -- builds ---------------------------------------------------------------------------------------------

    def begin_build(
        self,
        *,
        now: datetime | None = None,
        history_of: HistoryOf = None,
        extents_of: Mapping[str, Collection[str]] | None = None,
        who: str | None = None,
        keep: timedelta = timedelta(0),
    ) -> tuple[int, LedgerSnapshot]:
        """Take the next tick for a run of builds, and the ledger as it is at that tick.

        The snapshot holds every update with a lower tick and none with a higher one: what lands later makes
        nodes stale again. A random id of the run is written beside the tick, and this object shows it when it
        records at that tick; another one must be given it (``snapshot.run_id``). Times after ``now``, which a wrong
        clock wrote, become ``now``, and stay so: else they would hold nodes until they come. Once a day this also
        prunes.

        Args:
            now: When it begins (aware). Default: the clock on the wall.
            history_of: See :meth:`snapshot`.
            extents_of: See :meth:`snapshot`.
            who: Names the run for people. Default: who holds the build lock.
            keep: At least so much history is kept, beside ``keep_days``.

        Returns:
            ``(R, snapshot)`` with ``snapshot.tick == R``; record what was built well at R.
        """
        moment = _utc(now, "now")
        run_id = uuid.uuid4().hex
        with self._write() as scope:
            pruned = _mark(scope, _PRUNED)
            if pruned is None or moment - datetime.fromisoformat(pruned) >= _PRUNE_EVERY:
                self._prune(scope, moment, keep)
            _bring_back(scope, moment)
            tick = scope.next_tick()
            if who is None:
                who = scope.connection.execute(select(holders.c.who).where(holders.c.scope_id == scope.id)).scalar()
            row = {"scope_id": scope.id, "tick": tick, "run_id": run_id, "begun_at": moment, "who": who}
            scope.connection.execute(insert(runs), [row])
            snapshot = _snapshot(scope, history_of, extents_of, run_id)
        with self._runs_mutex:
            self._runs[tick] = run_id
            while len(self._runs) > _RUNS_REMEMBERED:
                del self._runs[next(iter(self._runs))]
        return tick, snapshot

    def snapshot(
        self, *, history_of: HistoryOf = None, extents_of: Mapping[str, Collection[str]] | None = None
    ) -> LedgerSnapshot:
        """Return the ledger at one instant; the clock does not move.

        Args:
            history_of: The source and node ids whose history to load; ``None`` loads all that is kept, ``()``
                reads newest facts alone, however long the history is. With the nodes that read each, what is loaded
                is its first moment above the last good build of each of these, which takes no longer for a longer
                history.
            extents_of: The source and node ids of which to load in which event times they changed, each with the nodes
                that read it: above the last good build of each of these.
        """
        return self._read(lambda scope: _snapshot(scope, history_of, extents_of, None))

    def record_built(
        self,
        tick: int,
        node_ids: Iterable[str],
        *,
        built_at: datetime,
        identities: Mapping[str, Mapping[str, str]] | None = None,
        checksums: Mapping[str, str] | None = None,
        unchanged: Collection[str] = (),
        seconds: Mapping[str, float] | None = None,
        rows: Mapping[str, int] | None = None,
        extents: Mapping[str, Extent] | None = None,
        run_id: str | None = None,
    ) -> None:
        """Record nodes that were built well in the run of this tick.

        A node's tick never falls: if a later run recorded it already, this one goes into the history only. Its
        failures are over, and what was asked for until this run is done.

        Args:
            tick: The R of :meth:`begin_build`.
            node_ids: unique_ids of models, snapshots and seeds.
            built_at: When they were done (aware).
            identities: Node to the parts of what it was built from; not known for the others.
            checksums: Node to the checksum of its file, as 0.1.0 kept it.
            unchanged: Those that came out as they were: they are built, and nothing below them is stale for it.
            seconds: Node to how long it took.
            rows: Node to how many rows it wrote.
            extents: Node to the event times in which what it took in had changed; by default they are not known.
            run_id: The id of the run, if another object began it.

        Raises:
            LedgerError: this ledger knows no such run: it began in a history that is lost (the ledger was
                restored, replaced, or is a replica that is behind). A tick of it would hide updates to come.
            ValueError: ``built_at`` has no time zone.
        """
        names = _list_of(node_ids)
        at = _utc(built_at, "built_at")
        if not names:
            return
        with self._write() as scope:
            self._check_run(scope, tick, run_id)
            digests = self._keep_identities(scope, identities or {})
            earlier = self._changed_before(scope, tick, set(names) & set(unchanged))
            done = [
                {
                    "scope_id": scope.id,
                    "node": node,
                    "tick": tick,
                    "changed_tick": earlier.get(node, tick),
                    "built_at": at,
                    "checksum": (checksums or {}).get(node),
                    "identity": digests.get(node),
                    "seconds": (seconds or {}).get(node),
                    "row_count": (rows or {}).get(node),
                }
                for node in names
            ]
            of_builds = [
                row | extent_values((extents or {}).get(node, OPEN)) for node, row in zip(names, done, strict=True)
            ]
            self._upsert(scope, builds, of_builds, *_BUILD_COLUMNS, *EXTENT_COLUMNS)
            later = {
                row.node: row
                for row in scope.chunks(
                    select(nodes).where(nodes.c.scope_id == scope.id, nodes.c.tick > tick), nodes.c.node, names
                )
            }
            newest = [row for row in done if row["node"] not in later]
            for row in done:
                if (fact := later.get(row["node"])) is not None and row["changed_tick"] > fact.changed_tick:
                    # The later run found it unchanged since before this one.
                    newest.append({**fact._mapping, "changed_tick": row["changed_tick"]})
            self._upsert(scope, nodes, [{"content": None, **row} for row in newest], *_NODE_COLUMNS)
            scope.delete(debts, debts.c.node, names, debts.c.tick <= tick)
            scope.delete(untested, untested.c.node, names, untested.c.tick <= tick)
            self._clear_failures(scope, tick, names)

    def _clear_failures(self, scope: _Scope, tick: int, names: Iterable[str]) -> None:
        """Let the failures of nodes up to a run be over, since it did them well."""
        for some in _some(names):
            scope.connection.execute(
                update(failures)
                .where(failures.c.scope_id == scope.id, failures.c.node.in_(some), failures.c.tick <= tick)
                .where(failures.c.cleared_tick.is_(None))
                .values(cleared_tick=tick)
            )

    def record_untested(
        self,
        tick: int,
        node_ids: Iterable[str],
        *,
        built_at: datetime,
        identities: Mapping[str, Mapping[str, str]] | None = None,
        extents: Mapping[str, Extent] | None = None,
        run_id: str | None = None,
    ) -> None:
        """Note nodes that succeeded themselves in the run of this tick, and whose tests did not pass.

        They are still stale. If their tests pass in a later run, :meth:`record_tested` says so.

        Args:
            tick: The R of :meth:`begin_build`.
            node_ids: unique_ids of models, snapshots and seeds.
            built_at: When they were done (aware).
            identities: Node to the parts of what it was built from.
            extents: As :meth:`record_built`.
            run_id: The id of the run, if another object began it.

        Raises:
            LedgerError: this ledger knows no such run.
            ValueError: ``built_at`` has no time zone.
        """
        names = _list_of(node_ids)
        at = _utc(built_at, "built_at")
        if not names:
            return
        with self._write() as scope:
            self._check_run(scope, tick, run_id)
            digests = self._keep_identities(scope, identities or {})
            rows = [
                {
                    "scope_id": scope.id,
                    "node": node,
                    "tick": tick,
                    "built_at": at,
                    "identity": digests.get(node),
                    "cleared_tick": None,
                    **extent_values((extents or {}).get(node, OPEN)),
                }
                for node in names
            ]
            later = self._ticks_of(scope, untested, names, untested.c.tick > tick)
            rows = [row for row in rows if row["node"] not in later]
            self._upsert(scope, untested, rows, *_UNTESTED_COLUMNS, *EXTENT_COLUMNS)

    def record_tested(self, tick: int, node_ids: Iterable[str], *, run_id: str | None = None) -> None:
        """Record nodes whose tests passed in the run of this tick, and which an earlier run built.

        They are recorded at the tick of that run: an update that came in between makes them stale, as it must. Their
        failures are over. A node of which no such build is known stays as it is.

        Args:
            tick: The R of :meth:`begin_build`.
            node_ids: unique_ids of models, snapshots and seeds.
            run_id: The id of the run, if another object began it.

        Raises:
            LedgerError: this ledger knows no such run.
        """
        names = _list_of(node_ids)
        if not names:
            return
        with self._write() as scope:
            self._check_run(scope, tick, run_id)
            mine = and_(untested.c.scope_id == scope.id, untested.c.tick <= tick, untested.c.cleared_tick.is_(None))
            found = list(scope.chunks(select(untested).where(mine), untested.c.node, names))
            done = [
                {
                    "scope_id": scope.id,
                    "node": row.node,
                    "tick": row.tick,
                    "changed_tick": row.tick,
                    "built_at": row.built_at,
                    "checksum": None,
                    "identity": row.identity,
                    "seconds": None,
                    "row_count": None,
                }
                for row in found
            ]
            of_builds = [row | extent_values(extent_in(of)) for row, of in zip(done, found, strict=True)]
            self._upsert(scope, builds, of_builds, *_BUILD_COLUMNS, *EXTENT_COLUMNS)
            last = self._ticks_of(scope, nodes, names)
            newest = [row for row in done if row["tick"] > last.get(row["node"], 0)]
            self._upsert(scope, nodes, newest, "tick", *_BUILD_COLUMNS)
            for row in found:
                scope.delete(debts, debts.c.node, [row.node], debts.c.tick <= row.tick)
            for some in _some(row.node for row in found):
                scope.connection.execute(
                    update(untested).where(mine, untested.c.node.in_(some)).values(cleared_tick=tick)
                )
            self._clear_failures(scope, tick, [row.node for row in found])

    def _ticks_of(
        self, scope: _Scope, table: Table, names: Iterable[str], *also: ColumnElement[bool]
    ) -> dict[str, int]:
        """Return the ticks of the rows that nodes have in a table with one row for each."""
        query = select(table.c.node, table.c.tick).where(table.c.scope_id == scope.id, *also)
        return {row.node: row.tick for row in scope.chunks(query, table.c.node, names)}

    def median_seconds(self, node_ids: Iterable[str]) -> dict[str, float]:
        """Return how long a build of these nodes takes: the median of the last ten of each that was ever timed."""
        of_node = builds.alias()
        tenth = (
            select(of_node.c.tick)
            .where(of_node.c.scope_id == nodes.c.scope_id, of_node.c.node == nodes.c.node)
            .order_by(of_node.c.tick.desc())
            .limit(1)
            .offset(_TIMED - 1)
            .scalar_subquery()
        )
        # An outer join, so that SQLite begins with the nodes, and reads ten rows of each and not all.
        of_last_ten = and_(
            builds.c.scope_id == nodes.c.scope_id,
            builds.c.node == nodes.c.node,
            builds.c.tick >= func.coalesce(tenth, 0),
        )
        query = select(nodes.c.node, builds.c.seconds).join_from(nodes, builds, of_last_ten, isouter=True)

        def question(scope: _Scope) -> dict[str, float]:
            found: dict[str, list[float]] = {}
            for row in scope.chunks(query.where(nodes.c.scope_id == scope.id), nodes.c.node, node_ids):
                if row.seconds is not None:
                    found.setdefault(row.node, []).append(row.seconds)
            return {node: median(each) for node, each in found.items()}

        return self._read(question)

    def last_as_at(self, node: str, tick: int) -> int | None:
        """Return the tick of the last good build that left the content of a node as it was at a tick.

        ``None``: it was not built by then, or that is not kept any more.
        """

        def question(scope: _Scope) -> int | None:
            mine = and_(builds.c.scope_id == scope.id, builds.c.node == node)
            then = select(builds.c.changed_tick).where(mine, builds.c.tick <= tick).order_by(builds.c.tick.desc())
            same = builds.c.changed_tick == then.limit(1).scalar_subquery()
            return scope.connection.execute(select(func.max(builds.c.tick)).where(mine, same)).scalar()

        return self._read(question)

    def oldest_loads(self, above: Iterable[tuple[str, int]]) -> dict[tuple[str, int], datetime]:
        """Return for each source and tick when the oldest load of the source above that tick was loaded (UTC).

        Of the first thousand loads above it, which may have been reported out of order; without those that brought
        nothing new. A pair of which no load is kept is left out.
        """
        first = (
            select(updates.c.loaded_at)
            .where(updates.c.scope_id == bindparam("its_scope"), updates.c.source == bindparam("its"))
            .where(updates.c.tick > bindparam("above"), ~updates.c.unchanged)
            .order_by(updates.c.tick)
            .limit(_FIRST_LOADS)
            .subquery()
        )
        query = select(func.min(first.c.loaded_at))

        def question(scope: _Scope) -> dict[tuple[str, int], datetime]:
            found: dict[tuple[str, int], datetime] = {}
            for source, tick in sorted(set(above)):
                its = {"its_scope": scope.id, "its": source, "above": tick}
                if (oldest := scope.connection.execute(query, its).scalar()) is not None:
                    found[source, tick] = oldest
            return found

        return self._read(question)

    def record_contents(
        self, tick: int, contents: Mapping[str, str], *, unchanged: Collection[str] = (), run_id: str | None = None
    ) -> None:
        """Record what builds of this tick left in the warehouse, and which of them left it as it was before.

        Until this they count as changed. A node whose last good build is not of this tick stays as it is.

        Args:
            tick: The R of :meth:`begin_build`.
            contents: Node to the fingerprint of its content.
            unchanged: Those of them that came out as they were: they are built, and nothing below them is stale for it.
            run_id: The id of the run, if another object began it.

        Raises:
            LedgerError: this ledger knows no such run.
        """
        if not contents:
            return
        with self._write() as scope:
            self._check_run(scope, tick, run_id)
            mine = and_(nodes.c.scope_id == scope.id, nodes.c.tick == tick)
            last = set(scope.chunks(select(nodes.c.node).where(mine), nodes.c.node, contents))
            rows = [{"its": node, "content": contents[node]} for (node,) in sorted(last)]
            if rows:
                known = update(nodes).where(mine, nodes.c.node == bindparam("its"))
                scope.connection.execute(known.values(content=bindparam("content")), rows)
            before = self._changed_before(scope, tick, {node for (node,) in last} & set(unchanged))
            rows = [{"its": node, "changed": changed} for node, changed in sorted(before.items())]
            for table in (nodes, builds):
                if rows:
                    scope.connection.execute(
                        update(table)
                        .where(table.c.scope_id == scope.id, table.c.node == bindparam("its"), table.c.tick == tick)
                        .values(changed_tick=bindparam("changed")),
                        rows,
                    )

    def forget_contents(self, node_ids: Iterable[str]) -> None:
        """Forget what the last good builds of these nodes left in the warehouse: a build sets about them.

        Should it not come to a good end, what it leaves is not known, nor what was read of it meanwhile.

        Args:
            node_ids: unique_ids of models, snapshots and seeds.
        """
        names = _list_of(node_ids)
        if names:
            with self._write() as scope:
                for some in _some(names):
                    scope.connection.execute(
                        update(nodes).where(nodes.c.scope_id == scope.id, nodes.c.node.in_(some)).values(content=None)
                    )

    def _changed_before(self, scope: _Scope, tick: int, names: Collection[str]) -> dict[str, int]:
        """Return the tick of the last change of these nodes before a run, where a good build of before is kept."""
        query = (
            select(builds.c.node, func.max(builds.c.changed_tick).label("changed_tick"))
            .where(builds.c.scope_id == scope.id, builds.c.tick < tick)
            .group_by(builds.c.node)
        )
        return {row.node: row.changed_tick for row in scope.chunks(query, builds.c.node, names)}

    def begin_nodes(self, tick: int, node_ids: Iterable[str], *, run_id: str | None = None) -> None:
        """Note, before a run sets about these nodes, that they are due until it or a later run built them well.

        A table that was made anew, and whose test then failed, is not what the ledger tells of any more. Nothing
        else would say so once its code is again what it was at its last good build.

        Args:
            tick: The R of :meth:`begin_build`.
            node_ids: unique_ids of models, snapshots and seeds.
            run_id: The id of the run, if another object began it.

        Raises:
            LedgerError: this ledger knows no such run.
        """
        names = _list_of(node_ids)
        if names:
            with self._write() as scope:
                self._check_run(scope, tick, run_id)
                self._add_debts(scope, names, tick, "a build of it did not come to a good end")

    def take_back(self, tick: int, node_ids: Iterable[str], *, run_id: str | None = None) -> None:
        """Take back what was recorded in the run of this tick and proved bad later in it.

        The nodes are as they were before that build, failures included, and a debt at this tick says that they
        are to be built. A node that was not recorded at this tick stays as it is.

        Args:
            tick: The R of :meth:`begin_build`.
            node_ids: unique_ids of models, snapshots and seeds.
            run_id: The id of the run, if another object began it.

        Raises:
            LedgerError: this ledger knows no such run.
        """
        names = _list_of(node_ids)
        if not names:
            return
        with self._write() as scope:
            self._check_run(scope, tick, run_id)
            found = dict.fromkeys(scope.delete(builds, builds.c.node, names, builds.c.tick == tick), tick)
            # Those that an earlier run built, and of which this one said that their tests passed.
            tested = self._ticks_of(scope, untested, names, untested.c.cleared_tick == tick)
            for node, built_tick in tested.items():
                scope.delete(builds, builds.c.node, [node], builds.c.tick == built_tick)
            found |= tested
            wrong = sorted(found)
            for node in wrong:
                scope.delete(nodes, nodes.c.node, [node], nodes.c.tick == found[node])
            latest = (
                select(builds.c.node, func.max(builds.c.tick).label("tick"))
                .where(builds.c.scope_id == scope.id)
                .group_by(builds.c.node)
                .subquery()
            )
            before = list(
                scope.chunks(
                    select(builds)
                    .join(latest, and_(builds.c.node == latest.c.node, builds.c.tick == latest.c.tick))
                    .where(builds.c.scope_id == scope.id),
                    builds.c.node,
                    wrong,
                )
            )
            # What the build that is taken back left in the warehouse is none of theirs.
            rows = [
                {"scope_id": scope.id, "node": row.node, "content": None}
                | {name: row._mapping[name] for name in ("tick", *_BUILD_COLUMNS)}
                for row in before
            ]
            self._upsert(scope, nodes, rows, *_NODE_COLUMNS)
            for node in wrong:
                self._add_debts(scope, [node], found[node], "what was built did not hold")
            for table in (failures, untested):
                for some in _some(wrong):
                    scope.connection.execute(
                        update(table)
                        .where(table.c.scope_id == scope.id, table.c.node.in_(some), table.c.cleared_tick == tick)
                        .values(cleared_tick=None)
                    )

    def record_failed(
        self,
        tick: int,
        messages: Mapping[str, str],
        *,
        failed_at: datetime,
        identities: Mapping[str, Mapping[str, str]] | None = None,
        run_id: str | None = None,
    ) -> None:
        """Count one more failure in a row of each of these nodes; one run counts once.

        Args:
            tick: The R of :meth:`begin_build`.
            messages: Node to what went wrong, as dbt said it.
            failed_at: When (aware).
            identities: Node to the parts of what it was built from.
            run_id: The id of the run, if another object began it.

        Raises:
            LedgerError: this ledger knows no such run.
            ValueError: ``failed_at`` has no time zone.
        """
        at = _utc(failed_at, "failed_at")
        if not messages:
            return
        with self._write() as scope:
            self._check_run(scope, tick, run_id)
            digests = self._keep_identities(scope, identities or {})
            before = {
                row.node: row
                for row in scope.chunks(
                    select(failures).where(failures.c.scope_id == scope.id), failures.c.node, messages
                )
            }
            rows = []
            for node, message in sorted(messages.items()):
                row = {
                    "scope_id": scope.id,
                    "node": node,
                    "times": 1,
                    "since": at,
                    "last_at": at,
                    "tick": tick,
                    "identity": digests.get(node),
                    "message": message[:_MESSAGE],
                    "cleared_tick": None,
                }
                known = before.get(node)
                if known is not None and known.cleared_tick in (None, tick):
                    if known.tick > tick:
                        continue  # a later run knows better
                    row |= {"times": known.times + (known.tick != tick), "since": known.since}
                rows.append(row)
            changing = ("times", "since", "last_at", "tick", "identity", "message", "cleared_tick")
            self._upsert(scope, failures, rows, *changing)
            times = {row["node"]: row["times"] for row in rows}
            history = [
                {
                    "scope_id": scope.id,
                    "node": node,
                    "tick": tick,
                    "failed_at": at,
                    "times": times.get(node, 1),
                    "message": message[:_MESSAGE],
                }
                for node, message in sorted(messages.items())
            ]
            self._upsert(scope, failed, history, "failed_at", "times", "message")

    def take_identities(self, parts: Mapping[str, Mapping[str, str]]) -> None:
        """Give the last good builds of 0.1.0, which knew no identities, theirs: nothing is built for it.

        Args:
            parts: Node to the parts of its identity; a node that has an identity, or was never built, stays as
                it is.
        """
        if not parts:
            return
        with self._write() as scope:
            unknown = {
                row.node: row.tick
                for row in scope.chunks(
                    select(nodes.c.node, nodes.c.tick).where(nodes.c.scope_id == scope.id, nodes.c.identity.is_(None)),
                    nodes.c.node,
                    parts,
                )
            }
            digests = self._keep_identities(scope, {node: parts[node] for node in sorted(unknown)})
            rows = [{"its": node, "at": tick, "digest": digests[node]} for node, tick in unknown.items()]
            for table in (nodes, builds):
                if rows:
                    scope.connection.execute(
                        update(table)
                        .where(table.c.scope_id == scope.id, table.c.node == bindparam("its"))
                        .where(table.c.tick == bindparam("at"))
                        .values(identity=bindparam("digest")),
                        rows,
                    )

    def identity_parts(self, node_id: str) -> Mapping[str, str] | None:
        """Return the parts of a node's identity at its last good build; ``None`` if they are not known."""

        def question(scope: _Scope) -> Mapping[str, str] | None:
            found = scope.connection.execute(
                select(identities.c.parts)
                .join(nodes, and_(nodes.c.scope_id == identities.c.scope_id, nodes.c.identity == identities.c.digest))
                .where(nodes.c.scope_id == scope.id, nodes.c.node == node_id)
            ).scalar()
            return None if found is None else dict(json.loads(found))

        return self._read(question)

    def ask_for(self, node_ids: Iterable[str], *, reason: str, window: Window | None = None) -> int:
        """Ask for nodes to be built, whatever else is known of them; due until a later run built them.

        Args:
            node_ids: unique_ids of models, snapshots and seeds.
            reason: Why, in words for people.
            window: The event times that are to be built of microbatch models; by default dbt says which.

        Returns:
            The tick at which they were asked for; the clock's reading if none was given.
        """
        names = _list_of(node_ids)
        if not names:
            return self._read(lambda scope: scope.tick)
        with self._write() as scope:
            tick = scope.next_tick()
            self._add_debts(scope, names, tick, reason, OPEN if window is None else Extent(window))
            return tick

    def clear_failures(self, node_ids: Iterable[str]) -> None:
        """Forget that these nodes failed, so that they are tried again at once."""
        names = _list_of(node_ids)
        if names:
            with self._write() as scope:
                scope.delete(failures, failures.c.node, names)

    def pause(
        self,
        names: Iterable[str],
        *,
        now: datetime,
        until: datetime | None = None,
        reason: str | None = None,
    ) -> None:
        """Pause sources and nodes, or ``*`` for all nodes; one that is paused already is paused anew.

        Args:
            names: unique_ids.
            now: When this is (aware).
            until: When it ends by itself (aware).
            reason: Why, in words for people.
        """
        with self._write() as scope:
            new = Pause(_utc(now, "now"), None if until is None else _utc(until, "until"), reason)
            rows = rows_of(scope.id, dict.fromkeys(names, new))
            self._upsert(scope, pauses, rows, "since", "until", "reason")

    def resume(self, names: Iterable[str]) -> frozenset[str]:
        """Let sources and nodes go on that were paused; return those of them that were."""
        with self._write() as scope:
            return frozenset(scope.delete(pauses, pauses.c.name, _list_of(names)))

    def forget(self, names: Iterable[str]) -> frozenset[str]:
        """Forget what is known of sources, of names as they were given, and of nodes: they are no more.

        The history of loads stays, so that a load that is reported once more is not new.

        Returns:
            Those of them of which anything was known.
        """
        wanted = _list_of(names)
        if not wanted:
            return frozenset()
        with self._write() as scope:
            found: set[str] = set()
            for table, column in (
                (sources, sources.c.source),
                (producers, producers.c.source),
                (nodes, nodes.c.node),
                (builds, builds.c.node),
                (debts, debts.c.node),
                (untested, untested.c.node),
                (failures, failures.c.node),
                (failed, failed.c.node),
                (launches, launches.c.follower),
                (pauses, pauses.c.name),
            ):
                found |= scope.delete(table, column, wanted)
            for some in _some(wanted):
                scope.connection.execute(
                    update(updates)
                    .where(updates.c.scope_id == scope.id, updates.c.source.in_(some))
                    .where(updates.c.given == updates.c.source, updates.c.resolved_tick.is_(None))
                    .values(resolved_tick=scope.tick)
                )
            return frozenset(found)

    def prune(self, *, now: datetime, keep: timedelta = timedelta(0)) -> int:
        """Remove updates and builds older than ``keep_days`` before ``now``; return how many.

        The newest update of a source stays, and so does, of a node, the build that was its last good one
        ``keep_days`` ago. A pruned ``update_id`` that comes once more is a new update: one build too many, never
        one too few.

        Args:
            now: From when to count (aware).
            keep: At least so much is kept, beside ``keep_days``.
        """
        moment = _utc(now, "now")
        with self._write() as scope:
            return self._prune(scope, moment, keep)

    def _prune(self, scope: _Scope, now: datetime, keep: timedelta) -> int:
        # A time further back than there are years is one before all that is kept.
        before = now - min(max(timedelta(days=self.keep_days), keep), now - _LONG_AGO)
        later = builds.alias("later")
        removed = 0
        for table, old in (
            (
                updates,
                and_(
                    updates.c.recorded_at < before,
                    updates.c.tick.not_in(select(sources.c.tick).where(sources.c.scope_id == scope.id)),
                ),
            ),
            (
                builds,
                and_(
                    builds.c.built_at < before,
                    exists().where(
                        later.c.scope_id == scope.id,
                        later.c.node == builds.c.node,
                        later.c.tick > builds.c.tick,
                        later.c.built_at < before,
                    ),
                ),
            ),
        ):
            gone = and_(table.c.scope_id == scope.id, old)
            last = func.max(table.c.tick).filter(table.c.window_start.is_not(None))
            if (pruned := scope.connection.execute(select(last).where(gone)).scalar()) is not None:
                known = int(_mark(scope, _PRUNED_WINDOW) or 0)
                self._set_mark(scope, _PRUNED_WINDOW, str(max(known, pruned)))
            removed += scope.connection.execute(delete(table).where(gone)).rowcount
        named = [
            select(table.c.identity).where(table.c.scope_id == scope.id, table.c.identity.is_not(None))
            for table in (nodes, builds, failures, untested)
        ]
        for table, old in (
            (runs, runs.c.begun_at < before),
            (failed, failed.c.failed_at < before),
            (failures, and_(failures.c.cleared_tick.is_not(None), failures.c.last_at < before)),
            (untested, and_(untested.c.cleared_tick.is_not(None), untested.c.built_at < before)),
            (identities, and_(*(identities.c.digest.not_in(each) for each in named))),
        ):
            scope.connection.execute(delete(table).where(table.c.scope_id == scope.id, old))
        self._set_mark(scope, _PRUNED, now.isoformat())
        return removed

    # -- followers ------------------------------------------------------------------------------------------

    def add_launch(self, launch: Launch) -> None:
        """Note that a follower is launched, or, once more, what Prefect said of it."""
        with self._write() as scope:
            row = {"scope_id": scope.id, **of_followers.row_of(launch)}
            self._upsert(scope, launches, [row], *(each for each in row if each not in ("scope_id", "follower")))

    def launches(self) -> dict[str, Launch]:
        """Return the followers whose run in a deployment goes on, as far as is known."""
        return self._read(lambda scope: of_followers.read(scope.connection, scope.id))

    def end_launch(self, follower: str) -> None:
        """Note that a launched run is over, after what came of it was recorded."""
        with self._write() as scope:
            of_followers.end(scope.connection, scope.id, follower)

    @contextmanager
    def follower_lock(self, follower: str) -> Iterator[BuildLock]:
        """Hold the lock of a follower that runs in this process, or find at once that another runs it.

        As :meth:`build_lock`, it is free when its holder dies.
        """
        held = BuildLock(self._database.take_lock(f"{self._lock_scope()} follower {follower}"))
        try:
            yield held
        finally:
            held.release()

    # -- marks ----------------------------------------------------------------------------------------------

    def mark(self, name: str) -> str | None:
        """Return the value of a mark of this scope, such as a watermark; ``None`` if never set."""
        return self._read(lambda scope: _mark(scope, name))

    def set_mark(self, name: str, value: str) -> None:
        """Set a mark of this scope."""
        with self._write() as scope:
            self._set_mark(scope, name, value)

    def change_mark(self, name: str, value: Callable[[str | None], str]) -> None:
        """Set a mark of this scope to what a function makes of its value (``None`` if never set), in one transaction.

        Of two who do it at the same time, one sees what the other made.
        """
        with self._write() as scope:
            old = _mark(scope, name)
            if (new := value(old)) != old:
                self._set_mark(scope, name, new)

    def _set_mark(self, scope: _Scope, name: str, value: str) -> None:
        row = {"scope_id": scope.id, "name": name, "value": value}
        scope.connection.execute(self._database.backend.upsert(marks, "value"), [row])

    # -- other projects -------------------------------------------------------------------------------------

    def publish(self, tables: Mapping[str, Published]) -> None:
        """Write what this project reads and builds, for the others of the same ledger to see.

        Args:
            tables: All its sources and nodes of which the relation is known, by unique_id.
        """
        if not self._read(lambda scope: relations.is_published(scope.connection, scope.id, tables)):
            with self._write() as scope:
                relations.publish(scope.connection, scope.id, tables)

    def built_elsewhere(self, read: Mapping[str, str]) -> dict[str, BuiltElsewhere]:
        """Return which nodes of other projects build what is read here, as of now.

        Args:
            read: Source to its relation.
        """
        return self._read(
            lambda scope: relations.built_elsewhere(scope.connection, scope.id, self._scope_name(scope), read)
        )

    def read_elsewhere(self) -> list[ReadElsewhere]:
        """Return the projects that read what was built here, and have not taken in the last of it yet."""
        return self._read(lambda scope: relations.read_elsewhere(scope.connection, scope.id) if scope.id else [])

    def cycle_through_others(self, tables: Mapping[str, Published]) -> list[tuple[Place, str]] | None:
        """Return a cycle of tables that leads through other projects, as the data flows; ``None`` if there is none.

        Args:
            tables: What this project reads and builds by now, as for :meth:`publish`.
        """
        return self._read(
            lambda scope: relations.find_cycle(scope.connection, scope.id, self._scope_name(scope), tables)
        )

    def origins(self, built: BuiltElsewhere) -> list[Origin]:
        """Return what was loaded in another project, and the last build of a node there took in; newest first."""
        return self._read(lambda scope: relations.origins(scope.connection, built.scope, built.node))

    def _scope_name(self, scope: _Scope) -> Place:
        return Place(self.project, self.target, scope.place)

    # -- the build lock -------------------------------------------------------------------------------------

    @contextmanager
    def build_lock(self, who: str) -> Iterator[BuildLock]:
        """Hold the one build lock of this scope, or find at once that another has it.

        ::

            with ledger.build_lock(f"pid {os.getpid()} on {host}, flow run {name}") as held:
                if not held:
                    print("taken by", ledger.holder())
                    return
                ...
                held.check_now_and_then()  # before each record
                held.check()  # before each round

        Processes, threads and Ledger objects all exclude each other; the same thread does not get it twice.
        When its holder dies, however that happens, the lock is free; who takes it then waits until a dbt that runs as a
        process of its own, and was the holder's, has ended too. In memory, it is this object's own.

        Args:
            who: Names the holder for people that find it taken.
        """
        held = take_build_lock(self._database.take_lock, self._lock_scope())
        try:
            if held:
                with self._write() as scope:
                    row = {"scope_id": scope.id, "who": who, "since": datetime.now(UTC)}
                    self._upsert(scope, holders, [row], "who", "since")
            yield held
        finally:
            if held:
                try:
                    # A name that stays behind does no harm: it is read only when the lock is taken.
                    with suppress(LedgerError), self._write() as scope:
                        scope.connection.execute(delete(holders).where(holders.c.scope_id == scope.id))
                finally:
                    held.release()

    def holder(self) -> Holder | None:
        """Return who took the build lock last and did not give it back.

        Ask it after the lock was found taken: a holder that was killed is still named here.
        """

        def question(scope: _Scope) -> Holder | None:
            query = select(holders.c.who, holders.c.since).where(holders.c.scope_id == scope.id)
            row = scope.connection.execute(query).first()
            return None if row is None else Holder(row.who, row.since)

        return self._read(question)

    def _lock_scope(self) -> str:
        # Lengths keep ("a", "b.c") and ("a.b", "c") apart.
        place = self._read(lambda scope: scope.place) if self.place is None else self.place
        parts = (self.project, self.target, *([place] if place else []))
        return "lineage_orch " + " ".join(f"{len(each)} {each}" for each in parts)

    # -- the clock ------------------------------------------------------------------------------------------

    def _clocks(self, connection: Connection, *, lock: bool = False) -> Row[Any] | None:
        """Return the row of this scope's clock: that of its place, or, without a place, the only one there is."""
        query = select(scopes.c.id, scopes.c.tick, scopes.c.place).where(
            scopes.c.project == self.project, scopes.c.target == self.target
        )
        if self.place is not None:
            query = query.where(scopes.c.place == self.place)
        rows = connection.execute(query.with_for_update() if lock else query).all()
        if len(rows) < 2:
            return rows[0] if rows else None
        plain = next((row for row in rows if not row.place), None)
        if plain is None:
            known = few(sorted(repr(row.place) for row in rows))
            raise LedgerError(
                f"the ledger {self.url} knows {self.project}/{self.target} in several places ({known}); name one of "
                "them: Ledger(..., place=...)"
            )
        return plain

    def _plain_clock(self) -> ColumnElement[bool]:
        return and_(scopes.c.project == self.project, scopes.c.target == self.target, scopes.c.place == "")

    def _read(self, question: Callable[[_Scope], T]) -> T:
        """Ask about this scope in one read transaction."""
        with self._database.read() as connection:
            row = self._clocks(connection)
            if row is None and self.place:
                # The facts that the first write will take over.
                row = connection.execute(
                    select(scopes.c.id, scopes.c.tick, scopes.c.place).where(self._plain_clock())
                ).first()
            return question(_Scope(connection, *(row or (0, 0, self.place or ""))))

    @contextmanager
    def _write(self) -> Iterator[_Scope]:
        """One write transaction of this scope.

        Every writer locks the clock's row first, until it commits, so the writes of one scope run one after the
        other: ticks come in commit order, ``begin_build`` reads one state, and no two writers can deadlock.
        """
        with self._database.write() as connection:
            row = self._clocks(connection, lock=True)
            if row is None:
                if self.place:
                    connection.execute(update(scopes).where(self._plain_clock()).values(place=self.place))
                new = {"project": self.project, "target": self.target, "place": self.place or "", "tick": 0}
                connection.execute(self._database.backend.insert_new(scopes), [new])
                row = self._clocks(connection, lock=True)
                assert row is not None
            scope = _Scope(connection, row.id, row.tick, row.place)
            yield scope
            if scope.tick != row.tick:
                connection.execute(update(scopes).where(scopes.c.id == row.id).values(tick=scope.tick))

    def _upsert(self, scope: _Scope, table: Table, rows: Sequence[Mapping[str, Any]], *columns: str) -> None:
        """Insert rows, or set these columns of those that are there."""
        if rows:
            scope.connection.execute(self._database.backend.upsert(table, *columns), rows)

    def _add_debts(self, scope: _Scope, names: Iterable[str], tick: int, reason: str, extent: Extent = OPEN) -> None:
        """Note that these nodes were asked for at a tick, beside what they were asked for before."""
        mine = select(debts).where(debts.c.scope_id == scope.id)
        known = {row.node: row for row in scope.chunks(mine, debts.c.node, names)}
        rows = []
        for node in names:
            row = {"scope_id": scope.id, "node": node, "tick": tick, "reason": reason}
            if (before := known.get(node)) is not None:
                if before.tick > tick:
                    row |= {"tick": before.tick, "reason": before.reason}
                row |= extent_values(extent | extent_in(before))
            else:
                row |= extent_values(extent)
            rows.append(row)
        self._upsert(scope, debts, rows, "tick", "reason", *EXTENT_COLUMNS)

    def _keep_identities(self, scope: _Scope, parts: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Keep the parts of identities; return node to digest."""
        # Only builds need it: who records a load has no use for the reader of manifests.
        from lineage_orch.lineage.identity import digest

        digests: dict[str, str] = {}
        rows: dict[str, dict[str, Any]] = {}
        for node, of_node in parts.items():
            name = digests[node] = digest(of_node)
            written = json.dumps(dict(of_node), sort_keys=True, separators=(",", ":"))
            rows[name] = {"scope_id": scope.id, "digest": name, "parts": written}
        if rows:
            scope.connection.execute(self._database.backend.insert_new(identities), list(rows.values()))
        return digests

    def _check_run(self, scope: _Scope, tick: int, run_id: str | None) -> None:
        """Make sure that the run that took this tick took it in this history of the ledger."""
        query = select(runs.c.run_id).where(runs.c.scope_id == scope.id, runs.c.tick == tick)
        written = scope.connection.execute(query).scalar()
        shown = run_id or self._runs.get(tick)
        if written is not None and written == shown:
            return
        if written is None:
            why = "it knows no run that began there"
        elif shown is None:
            why = "its run is of another ledger object, and its run_id was not given"
        else:
            why = "another run began there"
        raise LedgerError(
            f"the ledger {self.url} takes nothing at tick {tick} of {self.project}/{self.target}: {why} (its clock "
            f"is at {scope.tick}); if it was restored, deleted or replaced while the build ran, build again; in "
            "code of your own, use the tick of begin_build"
        )


# -- what is read -----------------------------------------------------------------------------------------------


def _snapshot(
    scope: _Scope, history_of: HistoryOf, extents_of: Mapping[str, Collection[str]] | None, run_id: str | None
) -> LedgerSnapshot:
    """Return all facts of a scope; the history of these ids only, or of all for None."""
    ask = scope.connection.execute
    newest = ask(
        select(sources.c.source, sources.c.tick, sources.c.loaded_at, sources.c.baseline).where(
            sources.c.scope_id == scope.id
        )
    ).all()
    facts = ask(
        select(
            nodes.c.node,
            nodes.c.tick,
            nodes.c.built_at,
            nodes.c.checksum,
            nodes.c.changed_tick,
            nodes.c.identity,
            nodes.c.content,
            nodes.c.seconds,
        ).where(nodes.c.scope_id == scope.id)
    ).all()
    of_sources = select(updates.c.source, updates.c.tick, updates.c.loaded_at).where(~updates.c.unchanged)
    of_nodes = select(builds.c.node, builds.c.tick, builds.c.built_at).where(builds.c.changed_tick == builds.c.tick)
    if isinstance(history_of, Mapping):
        built = {fact.node: fact.tick for fact in facts}
        above = {each: {built.get(node, 0) for node in below} for each, below in history_of.items()}
        source_history = _first_above(
            scope, of_sources, updates, "source", above, {source: tick for source, tick, *_ in newest}
        )
        node_history = _first_above(
            scope, of_nodes, builds, "node", above, {fact.node: fact.changed_tick for fact in facts}
        )
    else:
        source_history = _history(scope, of_sources, updates, "source", history_of)
        node_history = _history(scope, of_nodes, builds, "node", history_of)
    extents: dict[str, dict[int, Extent]] = {}
    if extents_of:
        built = {fact.node: fact.tick for fact in facts}
        changed = {fact.node: fact.changed_tick for fact in facts} | {source: tick for source, tick, *_ in newest}
        ticks = {each: {built[node] for node in below if node in built} for each, below in extents_of.items()}
        kept_from = int(_mark(scope, _PRUNED_WINDOW) or 0)
        extents = extents_above(scope.connection, scope.id, ticks, changed, kept_from)
    asked = ask(select(debts).where(debts.c.scope_id == scope.id)).all()
    declared = ask(_names_of_producers(scope.id)).scalars().all()
    return LedgerSnapshot(
        tick=scope.tick,
        sources={source: tick for source, tick, _, _ in newest if _is_source(source)},
        nodes={
            node: NodeFact(tick, built_at, checksum, None if changed == tick else changed, *rest)
            for node, tick, built_at, checksum, changed, *rest in facts
        },
        producers=frozenset(each for each in declared if _is_source(each)),
        source_history=source_history,
        node_history=node_history,
        run_id=run_id,
        baselines=frozenset(source for source, _, _, baseline in newest if baseline and _is_source(source)),
        debts={row.node: row.tick for row in asked},
        failures={
            row.node: Failure(row.times, row.since, row.last_at, row.tick, row.identity, row.message)
            for row in ask(select(failures).where(failures.c.scope_id == scope.id, failures.c.cleared_tick.is_(None)))
        },
        untested={
            row.node: Untested(row.tick, row.built_at, row.identity)
            for row in ask(select(untested).where(untested.c.scope_id == scope.id, untested.c.cleared_tick.is_(None)))
        },
        producer_patterns=frozenset(each for each in declared if not _is_source(each)),
        unresolved={source: tick for source, tick, _, _ in newest if not _is_source(source)},
        loaded_at={source: at for source, _, at, _ in newest if _is_source(source)},
        launches=of_followers.read(scope.connection, scope.id),
        pauses=read_pauses(scope.connection, scope.id),
        extents=extents,
        debt_extents={row.node: extent_in(row) for row in asked if row.window_start is not None},
    )


def _bring_back(scope: _Scope, now: datetime) -> None:
    """Let what was loaded, built or failed after ``now`` count as of now, for good."""

    def bring_back(column: Column[Any], *only: ColumnElement[bool]) -> None:
        table = column.table
        scope.connection.execute(
            update(table).where(table.c.scope_id == scope.id, column > now, *only).values({column.name: now})
        )

    # Two long tables: only what is news since the run before, and the builds of the nodes that it is about.
    before = select(func.coalesce(func.max(runs.c.tick), 0)).where(runs.c.scope_id == scope.id).scalar_subquery()
    bring_back(updates.c.loaded_at, updates.c.tick > before)
    bring_back(sources.c.loaded_at)
    ahead = select(nodes.c.node).where(nodes.c.scope_id == scope.id, nodes.c.built_at > now)
    bring_back(builds.c.built_at, builds.c.node.in_(ahead))
    bring_back(nodes.c.built_at)
    bring_back(untested.c.built_at)
    bring_back(failures.c.since)
    bring_back(failures.c.last_at)


def _history(
    scope: _Scope, query: Select[Any], table: Table, column: str, history_of: Collection[str] | None
) -> dict[str, list[Moment]]:
    history: dict[str, list[Moment]] = {}
    query = query.where(table.c.scope_id == scope.id).order_by(table.c.tick)
    for name, tick, at in scope.chunks(query, table.c[column], history_of):
        if table is builds or _is_source(name):
            history.setdefault(name, []).append(Moment(tick, at))
    return history


def _first_above(
    scope: _Scope,
    query: Select[Any],
    table: Table,
    column: str,
    above: Mapping[str, Collection[int]],
    newest: Mapping[str, int],
) -> dict[str, list[Moment]]:
    """Return the first moment above each of these ticks, of each id: one look into an index for each that has any."""
    first = (
        query.where(
            table.c.scope_id == scope.id, table.c[column] == bindparam("its"), table.c.tick > bindparam("above")
        )
        .order_by(table.c.tick)
        .limit(1)
    )
    history: dict[str, list[Moment]] = {}
    for name in above.keys() & newest.keys():
        found: set[Moment] = set()
        for tick in above[name]:
            if newest[name] > tick:
                rows = scope.connection.execute(first, {"its": name, "above": tick})
                found.update(Moment(at_tick, at) for _, at_tick, at in rows)
        if found:
            history[name] = sorted(found)
    return history


def _load_columns() -> list[Column[Any]]:
    """What :func:`_load` reads."""
    names = ("tick", "source", "loaded_at", "producer", "baseline", "unchanged", "update_id", "flow_run_id")
    return [updates.c[name] for name in (*names, "window_start", "window_end")]


def _load(row: Row[Any]) -> Load:
    start, end = row.window_start, row.window_end
    return Load(*row[:-2])._replace(window=None if start is None else Window(start, end))


def _names_of_producers(scope_id: int) -> Select[Any]:
    return select(producers.c.source).where(producers.c.scope_id == scope_id)


def _mark(scope: _Scope, name: str) -> str | None:
    query = select(marks.c.value).where(marks.c.scope_id == scope.id, marks.c.name == name)
    return scope.connection.execute(query).scalar()


# -- values -----------------------------------------------------------------------------------------------------


def _is_source(name: str) -> bool:
    """Whether a name is a unique_id, and no template or wildcard of one.

    As ``source.package.source_name.table``; or ``model.package.name``, of a model of another project.
    """
    dots = 3 if name.startswith("source.") else 2 if name.startswith("model.") else None
    return dots is not None and name.count(".") >= dots and "{" not in name and "*" not in name


def _some(ids: Iterable[str]) -> Iterator[list[str]]:
    """Yield the ids, each once, some at a time."""
    each_once = sorted(set(ids))
    for start in range(0, len(each_once), _CHUNK):
        yield each_once[start : start + _CHUNK]


def _list_of(ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str):
        raise TypeError(f"node_ids must be a list of ids, got the one string {ids!r}")
    return sorted(set(ids))


def _utc(moment: datetime | None, what: str) -> datetime:
    """Return an aware time as a plain datetime in UTC; the clock on the wall for None."""
    if moment is None:
        return datetime.now(UTC)
    if moment.utcoffset() is None:
        raise ValueError(f"{what} has no time zone: {moment!r}; use datetime.now(UTC)")
    if type(moment) is not datetime:
        # Prefect's times are pendulum's, which subtract in a way of their own.
        moment = datetime.fromisoformat(moment.isoformat())
    return moment.astimezone(UTC)
