"""The ledger: what was loaded and what was built, in the order of one durable logical clock.

:class:`Ledger` opens a transaction for each call. What is done in it stands in the module of its reason, in functions
that take the open ``Scope``: ``loads``, ``builds``, ``failures``, ``identities``, ``debts``, ``pauses``, ``launches``,
``marks``, ``relations`` (of other projects), ``reading`` (snapshot and history), ``upkeep`` (what is removed).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import delete, select

from lineage_orch.errors import LedgerError
from lineage_orch.ledger import (
    builds,
    debts,
    failures,
    identities,
    launches,
    loads,
    marks,
    pauses,
    reading,
    relations,
    upkeep,
)
from lineage_orch.ledger.database import Database
from lineage_orch.ledger.extents import Extents
from lineage_orch.ledger.identities import Identities
from lineage_orch.ledger.lock import BuildLock, take_build_lock
from lineage_orch.ledger.others import BuiltElsewhere, Origin, Place, Published, ReadElsewhere
from lineage_orch.ledger.reading import HistoryOf
from lineage_orch.ledger.schema import holders, updates, utc
from lineage_orch.ledger.scope import Clock, Scope
from lineage_orch.ledger.snapshot import OPEN, Extent, History, Holder, Launch, LedgerSnapshot, Load, Pause
from lineage_orch.updates import SourceUpdate, Window

P = ParamSpec("P")
T = TypeVar("T")

# How many runs an object knows the random ids of; one is under way at a time.
_RUNS_REMEMBERED = 100


class Ledger:
    """What was loaded and built in one scope (dbt project, target and place), ordered by a clock of its own.

    Every method is one transaction: all of it is on the disk when it returns, or none of it ever is. Methods
    may be called from any thread and process. Constructing does no I/O; the first use creates what is missing.

    A ledger with a place that finds facts of its project and target without a place, and none of its own, takes
    them over with its first write: 0.1.0 knew no places.

    What all methods have in common: sources and nodes (models, snapshots and seeds) are named by their unique_ids.
    Times are aware, and ``now`` is by default the clock on the wall. What became of a run of builds is recorded at its
    ``tick``, the R of :meth:`begin_build`, with its ``run_id`` if another object began it.

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
        LedgerError: from methods with a tick, that this ledger knows no such run: it began in a history that is lost
            (the ledger was restored or replaced, or is a replica that is behind): its tick would hide updates to come.
        ValueError: an empty project or target, or a ``keep_days`` below 1; from every method, a time without time zone.
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
        self._clock = Clock(self._database, project, target, place)
        self._read, self._write = self._clock.read, self._clock.write
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

    def _ask(self, question: Callable[Concatenate[Scope, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Ask one question in one read transaction."""
        with self._read() as scope:
            return question(scope, *args, **kwargs)

    @contextmanager
    def _write_of_run(self, tick: int, run_id: str | None) -> Iterator[Scope]:
        """One write transaction, for what became of the run of a tick."""
        with self._write() as scope:
            builds.check_run(scope, tick, run_id or self._runs.get(tick))
            yield scope

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
            now: When they are recorded; ``prune`` counts from it.
            baseline: They only declare what stands in the warehouse, and do not show that a source moves.

        Returns:
            The tick of the last update given (its first tick, if it was known); the clock's reading if none
            was given.
        """
        rows = loads.rows_of(given, utc(now, "now"), baseline=baseline)
        if not rows:
            return self._ask(lambda scope: scope.tick)
        with self._write() as scope:
            return loads.add(scope, rows)

    def resolve_names(self, meanings: Mapping[str, Sequence[str]], *, now: datetime | None = None) -> None:
        """Say which sources a name means under which updates were recorded: they become updates of these.

        Each takes a tick of its own and keeps its times; one whose ``(source, update_id)`` is known already is
        dropped. The name is then no longer in ``snapshot.unresolved``, and an update under it and a known
        update_id, that comes once more, is still the one that was.

        Args:
            meanings: Name, as it was given, to unique_ids of sources; an empty list leaves the name as it is.

        Raises:
            LedgerError: a meaning is no unique_id of a source.
        """
        recorded_at = utc(now, "now")
        if wanted := loads.check_meanings(meanings):
            with self._write() as scope:
                loads.resolve(scope, wanted, recorded_at)

    def register_producers(self, names: Iterable[str]) -> None:
        """Note that something loads these sources, so that they count as moving.

        Known ones change nothing and cost one read.

        Args:
            names: unique_ids of sources; or wildcards, templates and other names, which are kept as given
                (``snapshot.producer_patterns``).
        """
        if wanted := set(names):
            wanted -= self._ask(loads.registered)
        if wanted:
            with self._write() as scope:
                loads.register(scope, wanted)

    def producers(self) -> dict[str, list[str]]:
        """Return the sources that have a producer, with the names of those that loaded them of late, newest first.

        A producer that was registered and never loaded has no name here. What is no unique_id stands as given.
        """
        return self._ask(loads.producers_of_late)

    def updates_since(self, tick: int, *, limit: int = 100) -> list[tuple[int, SourceUpdate]]:
        """Return up to ``limit`` updates with a higher tick than this, newest first, each with its tick.

        One whose name was resolved since stands under its sources, at their ticks.
        """
        return self._ask(loads.updates_since, tick, limit)

    def recent_updates(self, limit: int = 20) -> list[tuple[int, SourceUpdate]]:
        """Return the last ``limit`` updates that are still kept, newest first, each with its tick."""
        return self.updates_since(0, limit=limit)

    def recent_loads(self, above: Mapping[str, int], *, limit: int = 20) -> dict[str, list[Load]]:
        """Return the last loads of sources, each source's newest first; a source of which none is kept is left out.

        Args:
            above: Source to the tick above which its loads are asked for.
            limit: How many of each source, at most.
        """
        return self._ask(loads.recent_loads, above, limit)

    def loads_since(self, tick: int, *, limit: int = 100) -> list[Load]:
        """Return up to ``limit`` loads with a higher tick than this, newest first; names as :meth:`updates_since`."""
        return self._ask(loads.newest_loads, limit, updates.c.tick > tick)

    def oldest_loads(self, above: Iterable[tuple[str, int]]) -> dict[tuple[str, int], datetime]:
        """Return for each source and tick when the oldest load of the source above that tick was loaded (UTC).

        Of the first thousand loads above it, which may have been reported out of order; without those that brought
        nothing new. A pair of which no load is kept is left out.
        """
        return self._ask(loads.oldest_loads, above)

    def known_updates(self, update_ids: Iterable[str]) -> frozenset[str]:
        """Return those of these ids under which an update is kept, of any source."""
        return self._ask(loads.known_updates, update_ids)

    def unchanged_by(self, update_ids: Iterable[str]) -> tuple[str, ...]:
        """Return the sources to which updates with these ids brought nothing new, by their fingerprints; sorted."""
        return self._ask(loads.unchanged_by, update_ids)

    # -- at one instant -------------------------------------------------------------------------------------

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
        return self._ask(reading.snapshot, history_of, extents_of, None)

    def history(self, since: datetime, *, limit: int = 20_000) -> History:
        """Return what was loaded, built and failed since a time, in one instant.

        Args:
            limit: How many of the newest loads, of the newest builds of nodes, and of their failures, at most.
        """
        start = utc(since, "since")
        return self._ask(reading.history, start, limit)

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
            history_of: See :meth:`snapshot`.
            extents_of: See :meth:`snapshot`.
            who: Names the run for people. Default: who holds the build lock.
            keep: At least so much history is kept, beside ``keep_days``.

        Returns:
            ``(R, snapshot)`` with ``snapshot.tick == R``; record what was built well at R.
        """
        moment = utc(now, "now")
        run_id = uuid.uuid4().hex
        with self._write() as scope:
            upkeep.prune_daily(scope, moment, self._kept(keep))
            tick = builds.begin_run(scope, run_id, moment, who)
            snapshot = reading.snapshot(scope, history_of, extents_of, run_id)
        with self._runs_mutex:
            self._runs[tick] = run_id
            while len(self._runs) > _RUNS_REMEMBERED:
                del self._runs[next(iter(self._runs))]
        return tick, snapshot

    def record_built(
        self,
        tick: int,
        node_ids: Iterable[str],
        *,
        built_at: datetime,
        identities: Identities = None,
        checksums: Mapping[str, str] | None = None,
        unchanged: Collection[str] = (),
        seconds: Mapping[str, float] | None = None,
        rows: Mapping[str, int] | None = None,
        extents: Extents = None,
        run_id: str | None = None,
    ) -> None:
        """Record nodes that were built well in the run of this tick.

        A node's tick never falls: if a later run recorded it already, this one goes into the history only. Its
        failures are over, and what was asked for until this run is done.

        Args:
            built_at: When they were done.
            identities: Node to the parts of what it was built from; not known for the others.
            checksums: Node to the checksum of its file, as 0.1.0 kept it.
            unchanged: Those that came out as they were: they are built, and nothing below them is stale for it.
            seconds: Node to how long it took.
            rows: Node to how many rows it wrote.
            extents: Node to the event times in which what it took in had changed; by default they are not known.
        """
        at = utc(built_at, "built_at")
        if names := _list_of(node_ids):
            with self._write_of_run(tick, run_id) as scope:
                builds.record_built(
                    scope, tick, names, at, identities, checksums or {}, unchanged, seconds or {}, rows or {}, extents
                )

    def record_untested(
        self,
        tick: int,
        node_ids: Iterable[str],
        *,
        built_at: datetime,
        identities: Identities = None,
        extents: Extents = None,
        run_id: str | None = None,
    ) -> None:
        """Note nodes that succeeded themselves in the run of this tick, and whose tests did not pass.

        They are still stale. If their tests pass in a later run, :meth:`record_tested` says so. Arguments are those of
        :meth:`record_built`.
        """
        at = utc(built_at, "built_at")
        if names := _list_of(node_ids):
            with self._write_of_run(tick, run_id) as scope:
                builds.record_untested(scope, tick, names, at, identities, extents)

    def record_tested(self, tick: int, node_ids: Iterable[str], *, run_id: str | None = None) -> None:
        """Record nodes whose tests passed in the run of this tick, and which an earlier run built.

        They are recorded at the tick of that run: an update that came in between makes them stale, as it must. Their
        failures are over. A node of which no such build is known stays as it is.
        """
        if names := _list_of(node_ids):
            with self._write_of_run(tick, run_id) as scope:
                builds.record_tested(scope, tick, names)

    def take_back(self, tick: int, node_ids: Iterable[str], *, run_id: str | None = None) -> None:
        """Take back what was recorded in the run of this tick and proved bad later in it.

        The nodes are as they were before that build, failures included, and a debt at this tick says that they
        are to be built. A node that was not recorded at this tick stays as it is.
        """
        if names := _list_of(node_ids):
            with self._write_of_run(tick, run_id) as scope:
                builds.take_back(scope, tick, names)

    def record_failed(
        self,
        tick: int,
        messages: Mapping[str, str],
        *,
        failed_at: datetime,
        identities: Identities = None,
        run_id: str | None = None,
    ) -> None:
        """Count one more failure in a row of each of these nodes; one run counts once.

        Args:
            messages: Node to what went wrong, as dbt said it.
            identities: Node to the parts of what it was built from.
        """
        at = utc(failed_at, "failed_at")
        if messages:
            with self._write_of_run(tick, run_id) as scope:
                failures.record_failed(scope, tick, messages, at, identities)

    def clear_failures(self, node_ids: Iterable[str]) -> None:
        """Forget that these nodes failed, so that they are tried again at once."""
        if names := _list_of(node_ids):
            with self._write() as scope:
                failures.forget_failures(scope, names)

    def record_contents(
        self, tick: int, contents: Mapping[str, str], *, unchanged: Collection[str] = (), run_id: str | None = None
    ) -> None:
        """Record what builds of this tick left in the warehouse, and which of them left it as it was before.

        Until this they count as changed. A node whose last good build is not of this tick stays as it is.

        Args:
            contents: Node to the fingerprint of its content.
            unchanged: Those of them that came out as they were: they are built, and nothing below them is stale for it.
        """
        if contents:
            with self._write_of_run(tick, run_id) as scope:
                builds.record_contents(scope, tick, contents, unchanged)

    def forget_contents(self, node_ids: Iterable[str]) -> None:
        """Forget what the last good builds of these nodes left in the warehouse: a build sets about them.

        Should it not come to a good end, what it leaves is not known, nor what was read of it meanwhile.
        """
        if names := _list_of(node_ids):
            with self._write() as scope:
                builds.forget_contents(scope, names)

    def take_identities(self, parts: Mapping[str, Mapping[str, str]]) -> None:
        """Give the last good builds of 0.1.0, which knew no identities, theirs: nothing is built for it.

        Args:
            parts: Node to the parts of its identity; a node that has an identity, or was never built, stays as
                it is.
        """
        if parts:
            with self._write() as scope:
                identities.take_identities(scope, parts)

    def identity_parts(self, node_id: str) -> Mapping[str, str] | None:
        """Return the parts of a node's identity at its last good build; ``None`` if they are not known."""
        return self._ask(identities.identity_parts, node_id)

    def median_seconds(self, node_ids: Iterable[str]) -> dict[str, float]:
        """Return how long a build of these nodes takes: the median of the last ten of each that was ever timed."""
        return self._ask(builds.median_seconds, node_ids)

    def last_as_at(self, node: str, tick: int) -> int | None:
        """Return the tick of the last good build that left the content of a node as it was at a tick.

        ``None``: it was not built by then, or that is not kept any more.
        """
        return self._ask(builds.last_as_at, node, tick)

    # -- what people ask for --------------------------------------------------------------------------------

    def begin_nodes(self, tick: int, node_ids: Iterable[str], *, run_id: str | None = None) -> None:
        """Note, before a run sets about these nodes, that they are due until it or a later run built them well.

        A table that was made anew, and whose test then failed, is not what the ledger tells of any more. Nothing
        else would say so once its code is again what it was at its last good build.
        """
        if names := _list_of(node_ids):
            with self._write_of_run(tick, run_id) as scope:
                debts.add(scope, names, tick, "a build of it did not come to a good end")

    def ask_for(self, node_ids: Iterable[str], *, reason: str, window: Window | None = None) -> int:
        """Ask for nodes to be built, whatever else is known of them; due until a later run built them.

        Args:
            reason: Why, in words for people.
            window: The event times that are to be built of microbatch models; by default dbt says which.

        Returns:
            The tick at which they were asked for; the clock's reading if none was given.
        """
        names = _list_of(node_ids)
        if not names:
            return self._ask(lambda scope: scope.tick)
        with self._write() as scope:
            tick = scope.next_tick()
            debts.add(scope, names, tick, reason, OPEN if window is None else Extent(window))
            return tick

    def pause(
        self, names: Iterable[str], *, now: datetime, until: datetime | None = None, reason: str | None = None
    ) -> None:
        """Pause sources and nodes, or ``*`` for all nodes; one that is paused already is paused anew.

        Args:
            until: When it ends by itself.
            reason: Why, in words for people.
        """
        with self._write() as scope:
            new = Pause(utc(now, "now"), None if until is None else utc(until, "until"), reason)
            pauses.pause(scope, names, new)

    def resume(self, names: Iterable[str]) -> frozenset[str]:
        """Let sources and nodes go on that were paused; return those of them that were."""
        with self._write() as scope:
            return pauses.resume(scope, _list_of(names))

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
            return upkeep.forget(scope, wanted)

    def prune(self, *, now: datetime, keep: timedelta = timedelta(0)) -> int:
        """Remove updates and builds older than ``keep_days`` before ``now``; return how many.

        The newest update of a source stays, and so does, of a node, the build that was its last good one
        ``keep_days`` ago. A pruned ``update_id`` that comes once more is a new update: one build too many, never
        one too few.

        Args:
            keep: At least so much is kept, beside ``keep_days``.
        """
        moment = utc(now, "now")
        with self._write() as scope:
            return upkeep.prune(scope, moment, self._kept(keep))

    def _kept(self, at_least: timedelta) -> timedelta:
        return max(timedelta(days=self.keep_days), at_least)

    # -- followers and marks --------------------------------------------------------------------------------

    def add_launch(self, launch: Launch) -> None:
        """Note that a follower is launched, or, once more, what Prefect said of it."""
        with self._write() as scope:
            launches.add(scope, launch)

    def launches(self) -> dict[str, Launch]:
        """Return the followers whose run in a deployment goes on, as far as is known."""
        return self._ask(launches.read)

    def end_launch(self, follower: str) -> None:
        """Note that a launched run is over, after what came of it was recorded."""
        with self._write() as scope:
            launches.end(scope, follower)

    def mark(self, name: str) -> str | None:
        """Return the value of a mark of this scope, such as a watermark; ``None`` if never set."""
        return self._ask(marks.mark, name)

    def set_mark(self, name: str, value: str) -> None:
        """Set a mark of this scope."""
        with self._write() as scope:
            marks.set_mark(scope, name, value)

    def change_mark(self, name: str, value: Callable[[str | None], str]) -> None:
        """Set a mark of this scope to what a function makes of its value (``None`` if never set), in one transaction.

        Of two who do it at the same time, one sees what the other made.
        """
        with self._write() as scope:
            old = marks.mark(scope, name)
            if (new := value(old)) != old:
                marks.set_mark(scope, name, new)

    # -- other projects -------------------------------------------------------------------------------------

    def publish(self, tables: Mapping[str, Published]) -> None:
        """Write what this project reads and builds, for the others of the same ledger to see.

        Args:
            tables: All its sources and nodes of which the relation is known, by unique_id.
        """
        if not self._ask(relations.is_published, tables):
            with self._write() as scope:
                relations.publish(scope, tables)

    def built_elsewhere(self, read: Mapping[str, str]) -> dict[str, BuiltElsewhere]:
        """Return which nodes of other projects build what is read here, as of now.

        Args:
            read: Source to its relation.
        """
        return self._ask(relations.built_elsewhere, read)

    def read_elsewhere(self) -> list[ReadElsewhere]:
        """Return the projects that read what was built here, and have not taken in the last of it yet."""
        return self._ask(relations.read_elsewhere)

    def cycle_through_others(self, tables: Mapping[str, Published]) -> list[tuple[Place, str]] | None:
        """Return a cycle of tables that leads through other projects, as the data flows; ``None`` if there is none.

        Args:
            tables: What this project reads and builds by now, as for :meth:`publish`.
        """
        return self._ask(relations.find_cycle, tables)

    def origins(self, built: BuiltElsewhere) -> list[Origin]:
        """Return what was loaded in another project, and the last build of a node there took in; newest first."""
        return self._ask(relations.origins, built.scope, built.node)

    # -- locks ----------------------------------------------------------------------------------------------

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
        held = take_build_lock(self._database.take_lock, self._clock.lock_name())
        try:
            if held:
                with self._write() as scope:
                    scope.upsert(
                        holders, [{"scope_id": scope.id, "who": who, "since": datetime.now(UTC)}], "who", "since"
                    )
            yield held
        finally:
            if held:
                try:
                    # A name that stays behind does no harm: it is read only when the lock is taken.
                    with suppress(LedgerError), self._write() as scope:
                        scope.execute(delete(holders).where(scope.mine(holders)))
                finally:
                    held.release()

    def holder(self) -> Holder | None:
        """Return who took the build lock last and did not give it back.

        Ask it after the lock was found taken: a holder that was killed is still named here.
        """
        with self._read() as scope:
            row = scope.execute(select(holders.c.who, holders.c.since).where(scope.mine(holders))).first()
            return None if row is None else Holder(row.who, row.since)

    @contextmanager
    def follower_lock(self, follower: str) -> Iterator[BuildLock]:
        """Hold the lock of a follower that runs in this process, or find at once that another runs it.

        As :meth:`build_lock`, it is free when its holder dies.
        """
        held = BuildLock(self._database.take_lock(f"{self._clock.lock_name()} follower {follower}"))
        try:
            yield held
        finally:
            held.release()


def _list_of(ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str):
        raise TypeError(f"node_ids must be a list of ids, got the one string {ids!r}")
    return sorted(set(ids))
