"""Record -> plan -> build -> record, under one lock."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lineage_orch.dbt.by_hand import LEFT_TO_HOLDER, HandBuild, Limits, build_lock_by_hand, selected
from lineage_orch.dbt.choice import choose_dbt, dbt_for_commands
from lineage_orch.dbt.command import is_full_refresh, not_built_by, shown_command, threads_in
from lineage_orch.dbt.current import CurrentLineage
from lineage_orch.dbt.engine import BUILT, PASSED, DbtEngine
from lineage_orch.dbt.freshness import Freshness, read_sources_json
from lineage_orch.dbt.microbatch import event_times
from lineage_orch.dbt.observation import Observation, observe, to_look_at
from lineage_orch.dbt.project import DbtProject
from lineage_orch.dbt.recorder import BuildRecorder
from lineage_orch.dbt.retries import Retries
from lineage_orch.dbt.typed import TypedCommand, run_typed
from lineage_orch.errors import (
    DbtError,
    LineageError,
    LineageOrchError,
    ManifestError,
    SettingsError,
    UnknownNodeError,
    UnknownSourceError,
)
from lineage_orch.ledger import Ledger, LedgerSnapshot
from lineage_orch.lineage import Lineage
from lineage_orch.loads.declaration import is_pattern
from lineage_orch.plan import (
    BuildPlan,
    Estimate,
    estimate,
    failure_identity,
    nodes_below,
    plan_builds,
    plan_graph,
    timed_nodes,
)
from lineage_orch.reports.build_report import BuildReport, last_name
from lineage_orch.settings import LineageOrchSettings
from lineage_orch.text import count, few
from lineage_orch.updates import SourceUpdate

if TYPE_CHECKING:
    from lineage_orch.ledger.lock import BuildLock
    from lineage_orch.reports.activity import Activity
    from lineage_orch.reports.explanation import Explanation
    from lineage_orch.reports.history import Event
    from lineage_orch.reports.page import Page
    from lineage_orch.reports.status import Status

logger = logging.getLogger(__name__)

_ALL = 10**9  # More than a ledger has of anything.

Progress = Callable[[str], Any]

# How many more dbt runs one call makes for what is loaded while it builds.
ROUNDS = 2
# After so many dbt runs a call builds the rest at once: where loads that change nothing come all the time, what waits
# to see whether they do would wait again and again.
_STAGES = 20
# Seconds between two looks at a lock that another has, and how often a call that waits for it says so.
_LOOK_AGAIN = 1.0
_SAY_AGAIN = 300.0


@dataclass(frozen=True)
class Adoption:
    """What ``adopt`` would declare as loaded and built, or has.

    Attributes:
        sources: The sources that count as loaded from now on (baselines); those that were loaded before are none of
            them.
        nodes: The nodes that count as built as they stand.
        failed: The nodes whose last build failed, which stay stale unless they are forgiven by name.
        missing: The nodes whose relation is not in the warehouse, which stay as they are.
        tick: The tick of the adoption; None before it is done.
    """

    sources: tuple[str, ...]
    nodes: tuple[str, ...]
    failed: tuple[str, ...]
    missing: tuple[str, ...]
    tick: int | None = None


class Orchestrator:
    """One dbt project and target: what was loaded, what is stale, and how it gets built.

    Args:
        settings: by default read from the environment and pyproject.toml.
        dbt: what runs dbt, or the setting ``dbt``; by default as the setting says.
        ledger: a ledger, or the url of one; by default the one that the settings name.
        clock: returns the time now (aware); only the policies look at it.
        progress: takes a line for people when the project is parsed, which may take a while.
        overrides: single settings to replace.

    Attributes:
        loading: returns the names of the sources that are being loaded now, or are about to be; asked for each plan
            of a build, where the setting ``patience`` says that their loads are waited for. A deployment knows them.

    Raises:
        SettingsError: a setting cannot be read, or there is no dbt project.
        DbtError: the project's files or its profile cannot be read.
    """

    def __init__(
        self,
        settings: LineageOrchSettings | None = None,
        *,
        dbt: DbtEngine | str | None = None,
        ledger: Ledger | str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        progress: Callable[[str], Any] = lambda _: None,
        **overrides: Any,
    ) -> None:
        if isinstance(ledger, str):
            overrides["ledger"], ledger = ledger, None
        if isinstance(dbt, str):
            overrides["dbt"], dbt = dbt, None
        self.settings = settings.with_overrides(**overrides) if settings else LineageOrchSettings(**overrides)
        self.project = DbtProject.find(self.settings)
        self._dbt: DbtEngine = dbt or choose_dbt(self.project, self.settings)
        self._owns_ledger = ledger is None
        self.ledger = ledger or Ledger(
            self.settings.ledger or self.project.ledger_url,
            project=self.project.name,
            target=self.project.target,
            place=self.project.place,
            keep_days=self.settings.keep_days,
        )
        self._clock = clock
        self.loading: Callable[[], Iterable[str]] = tuple
        self._loading: frozenset[str] = frozenset()
        self._current = CurrentLineage(self.project, self.settings.manifest, self._dbt.parse, progress=progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the ledger's connections."""
        if self._owns_ledger:
            self.ledger.close()

    # Lineage ----------------------------------------------------------------------------------------------

    @property
    def manifest_path(self) -> Path:
        """The manifest that is used."""
        return self._current.path

    @property
    def lineage(self) -> Lineage:
        """The project's lineage as of now.

        A manifest that is missing, or was made of other files, another target or other vars, is made anew by ``dbt
        parse``, unless the setting ``manifest`` names one to use as it is.

        Raises:
            ManifestError: the manifest cannot be read.
            DbtError: the project does not parse.
        """
        return self._current.now()

    def parse(self) -> Lineage:
        """Have dbt parse the project anew, however new its manifest is; returns the lineage.

        Raises:
            ManifestError: the manifest cannot be read.
            DbtError: the project does not parse.
        """
        return self._current.now(parse=True)

    # Updates ----------------------------------------------------------------------------------------------

    def record(self, updates: Iterable[SourceUpdate | str]) -> int:
        """Record loads; returns the tick of the last.

        Sources may be named as people do, ``source_name.*`` included; a plain name is an update as of now. Needs
        nothing but the ledger: where no manifest can be read, or it does not know a name, the update is kept under the
        name as given, and belongs to its source as soon as a manifest knows it.

        Raises:
            UnknownSourceError: a name is not in the manifest of now; all updates are recorded, this one as given.
            LedgerError: the ledger cannot be reached or written; nothing was recorded.
        """
        now = self._clock()
        given = [
            SourceUpdate(each, update_id=uuid.uuid4().hex, loaded_at=now) if isinstance(each, str) else each
            for each in updates
        ]
        known = self._known_names(update.source for update in given)
        tick = self.ledger.record_updates(
            [
                replace(update, source=source)
                for update in given
                for source in known.get(update.source, (update.source,))
            ],
            now=now,
        )
        self._note_producers([update.source for update in given if update.producer], known)
        self._complain_of({update.source for update in given} - known.keys())
        return tick

    def observe(
        self,
        sources: Iterable[str] = (),
        *,
        sources_json: Path | str | None = None,
        also_produced: bool = False,
    ) -> Observation:
        """Look when sources were loaded, and record those that were since the ledger last heard of them.

        For loads that nothing reports: of Fivetran, Airbyte, a script. Asks dbt (``dbt source freshness``), or reads
        what it wrote elsewhere. The setting ``settle`` says when a load counts as complete.

        Args:
            sources: names of those to look at; by default all that something is built from and no producer reports.
            sources_json: the file that ``dbt source freshness`` wrote.
            also_produced: by default also those that a producer reports.

        Raises:
            UnknownSourceError: no source has such a name.
            DbtError: dbt could not be asked, or the file cannot be read.
            ManifestError, LedgerError: the manifest or ledger cannot be read or written; nothing was recorded.
        """
        lineage = self.lineage
        before = self._seen_with(lineage, self.ledger.snapshot(history_of=()))
        asked = to_look_at(lineage, before, sources, also_produced=also_produced)
        if sources_json is not None:
            found = read_sources_json(Path(sources_json))
        else:
            found = self._dbt.source_freshness(lineage, asked) if asked else Freshness()
        settle = timedelta(seconds=self.settings.settle)
        observation, updates = observe(found, asked, lineage, before, settle)
        if not updates:
            return observation
        tick = self.ledger.record_updates(updates, now=self._clock())
        # The ledger knows what was seen before, also by a look that was made meanwhile.
        after = self.ledger.snapshot(history_of=()).sources
        recorded = {
            source: at
            for source, at in observation.recorded.items()
            if after.get(source, 0) > before.sources.get(source, 0)
        }
        return replace(observation, recorded=recorded, tick=tick if recorded else None)

    def register_producers(self, sources: Iterable[str]) -> None:
        """Make known that these sources have a producer, before its first load.

        Args:
            sources: names, ``source_name.*``, or templates (``crm.{table}``), which stand for every source that they
                can mean.

        Raises:
            UnknownSourceError: a name is not in the manifest of now; all are registered, this one as given.
        """
        names = list(sources)
        known = self._known_names(names)
        self._note_producers(names, known)
        self._complain_of({name for name in names if not is_pattern(name)} - known.keys())

    def _note_producers(self, names: Iterable[str], known: Mapping[str, tuple[str, ...]]) -> None:
        self.ledger.register_producers([each for name in names for each in known.get(name, (name,))])

    def _known_names(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return what the manifest, as it was last parsed, knows of these names; nothing if there is none."""
        try:
            lineage = self._current.as_read()
        except LineageOrchError as error:
            logger.debug("Sources are recorded under the names that were given: %s", error)
            return {}
        return _resolved(lineage, names)

    def _complain_of(self, names: Collection[str]) -> None:
        """Complain of names that are in the ledger as given, where the manifest is of now and lacks them.

        Nothing is parsed for it: a load may be waiting, under a timeout. A build does that, and looks again.
        """
        if not names:
            return
        try:
            if self.settings.manifest is None and self.project.manifest_is_stale():
                logger.debug("Recorded as named, until the project is parsed anew: %s", few(sorted(names)))
                return
            lineage = self._current.as_read()
        except LineageOrchError as error:
            logger.debug("Recorded as named, until the project can be read: %s (%s)", few(sorted(names)), error)
            return
        unknown: list[str] = []
        for name in sorted(names):
            try:
                lineage.resolve_sources(name)
            except LineageError as error:
                unknown.append(str(error))
        if unknown:
            raise UnknownSourceError("; ".join(unknown))

    def without_nodes(self, sources: Iterable[str]) -> tuple[str, ...]:
        """Return those of these sources that have nothing downstream that dbt builds.

        Raises:
            UnknownSourceError: a name is not in the manifest.
        """
        lineage = self._current.for_names()
        return tuple(
            source
            for source in lineage.resolve_sources(*sources)
            if lineage.nodes.keys().isdisjoint(lineage.downstream(source))
        )

    def retry(self, names: Iterable[str] = ()) -> tuple[str, ...]:
        """Let failing nodes be tried again by the next build, without waiting for their time.

        Args:
            names: of nodes; none means every node that fails.

        Returns:
            Their unique_ids.

        Raises:
            UnknownNodeError: no such node in the manifest.
        """
        lineage = self.lineage
        nodes = tuple(dict.fromkeys(lineage.resolve_node(each) for each in names))
        nodes = nodes or tuple(self.ledger.snapshot(history_of=()).failures)
        self.ledger.clear_failures(nodes)
        return nodes

    def mark_stale(self, select: Collection[str], *, reason: str = "marked stale by hand") -> tuple[str, ...]:
        """Make nodes stale: the next build builds them, whenever that is, and whatever their policies say.

        Args:
            select: names of sources (all that is downstream of them) or of nodes, or selectors of dbt's grammar.
            reason: why, in words for people.

        Returns:
            Their unique_ids.

        Raises:
            LineageError: nothing in the project is called so, or matches a selector.
            DbtError: dbt cannot read a selector, or could not run.
        """
        nodes = selected(self.lineage, self._dbt, select).nodes if select else ()
        self.ledger.ask_for(nodes, reason=reason)
        return nodes

    def forget(self, names: Iterable[str]) -> tuple[str, ...]:
        """Take sources, nodes or producers out of the ledger: their facts, debts and failures, not the history.

        A source is then as one that was never loaded and that nothing loads; a node as one that was never built.

        Args:
            names: of sources or nodes, or names that the ledger holds as given.

        Returns:
            The ids and names that were taken out.

        Raises:
            LineageError: a name is neither in the manifest nor in the ledger.
        """
        lineage = self.lineage
        snapshot = self.ledger.snapshot(history_of=())
        kept = {*snapshot.sources, *snapshot.nodes, *snapshot.producers}
        kept |= {*snapshot.unresolved, *snapshot.producer_patterns}
        out: dict[str, None] = {}
        for name in names:
            if name in kept:  # also what the manifest does not know any more
                out[name] = None
                continue
            try:
                out.update(dict.fromkeys(lineage.resolve_sources(name)))
            except UnknownSourceError as no_source:
                try:
                    out[lineage.resolve_node(name)] = None
                except UnknownNodeError:
                    raise no_source from None
        self.ledger.forget(list(out))
        return tuple(out)

    # What the ledger holds under names --------------------------------------------------------------------

    @cached_property
    def _found(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """The sources of the producers that the setting ``producers`` names, and what to tell people of the rest."""
        if not self.settings.producers:
            return frozenset(), ()
        from lineage_orch.loads.discovery import find_producers

        found = find_producers(self.settings.producers)
        said = [f"Producers in {failure.place} are not known: {failure.why}" for failure in found.failures]
        return frozenset(source for each in found.producers for source in each.sources), tuple(said)

    def _seen_with(self, lineage: Lineage, snapshot: LedgerSnapshot) -> LedgerSnapshot:
        """Return a snapshot in which names that were kept as given stand for the sources of this manifest.

        And in which a source has a producer before its first load: what a plan shows is what a build will do.
        """
        sources = dict(snapshot.sources)
        for name, ids in _resolved(lineage, snapshot.unresolved).items():
            for source in ids:
                sources[source] = max(sources.get(source, 0), snapshot.unresolved[name])
        return replace(snapshot, sources=sources, producer_patterns=snapshot.producer_patterns | self._found[0])

    # Plan -------------------------------------------------------------------------------------------------

    def plan(self, *, check_relations: bool = False) -> BuildPlan:
        """Return what a build would do now; changes nothing.

        Args:
            check_relations: also ask the warehouse which relations are gone, as a build does.

        Raises:
            ManifestError, DbtError, LedgerError: the manifest or ledger cannot be read.
        """
        lineage = self.lineage
        self._loading = self._ask_loading(lineage)
        snapshot = self._seen_with(lineage, self.ledger.snapshot(history_of=_with_history(lineage, self._loading)))
        missing = self._missing_relations(lineage, snapshot) if check_relations else frozenset()
        return self._plan(lineage, snapshot, missing=missing)

    def _plan(
        self,
        lineage: Lineage,
        snapshot: LedgerSnapshot,
        failed: Iterable[str] = (),
        missing: Collection[str] = (),
        only: Collection[str] | None = None,
        forced: Collection[str] = (),
        compares: bool = True,
    ) -> BuildPlan:
        settings = self.settings
        return plan_builds(
            lineage,
            snapshot,
            now=self._clock(),
            views=settings.views,
            rebuild_changed_code=settings.rebuild_changed_code,
            missing_relations=missing,
            not_built=not_built_by(settings.dbt_command, settings.dbt_flags, lineage),
            failed=frozenset(failed),
            only=only,
            forced=forced,
            loading=self._loading,
            patience=timedelta(seconds=settings.patience),
            # A full refresh builds all of the plan anew, whatever came out above it.
            cutoff=settings.cutoff if compares and not is_full_refresh(settings.dbt_flags) else "off",
        )

    def _ask_loading(self, lineage: Lineage) -> frozenset[str]:
        """Return the sources that are being loaded now, where that is known and waited for."""
        if not self.settings.patience:
            return frozenset()
        return frozenset(each for ids in _resolved(lineage, self.loading()).values() for each in ids)

    def estimate(self, plan: BuildPlan) -> Estimate | None:
        """Return how long dbt will take for a plan, by how long its nodes took before; None where none was timed.

        Raises:
            ManifestError, DbtError, LedgerError: the manifest or ledger cannot be read.
        """
        return self._estimate(self._current.as_read(), plan)

    def _estimate(self, lineage: Lineage, plan: BuildPlan) -> Estimate | None:
        threads = threads_in(self.settings.dbt_flags) or self.project.profile.threads or 1
        return estimate(lineage, plan.build, self.ledger.median_seconds(plan.build), threads)

    def _missing_relations(self, lineage: Lineage, snapshot: LedgerSnapshot) -> frozenset[str]:
        """Return the nodes that are not in the warehouse; none where that is of no use, or cannot be told."""
        # Of what was never built it matters to a microbatch model alone: whether dbt will start at its `begin`.
        if (
            not snapshot.nodes
            and not snapshot.untested
            and all(lineage.microbatch(node) is None for node in lineage.nodes)
        ):
            return frozenset()
        return self._dbt.missing_relations(lineage) or frozenset()

    # Build ------------------------------------------------------------------------------------------------

    def build(
        self,
        *,
        who: str | None = None,
        progress: Progress = lambda _: None,
        rounds: int | None = ROUNDS,
        wait_for: Collection[str] = (),
        select: Collection[str] = (),
        exclude: Collection[str] = (),
        force: bool = False,
        full_refresh: bool = False,
        event_time_start: datetime | str | None = None,
        event_time_end: datetime | str | None = None,
    ) -> BuildReport:
        """Build all that is stale and due, and a few rounds of what is loaded meanwhile; or a selection.

        It plans again after each dbt run, and once more after it let go of the lock. Nothing that was not built well
        is tried again in the same call unless new data came for it, or it failed for a reason that passes (settings
        ``node_retries``, ``node_retry_delay``, ``retry_on``). While loads keep coming this ends all the same:
        ``report.more`` then names what is stale again, and the caller sees to it that someone builds.

        Whoever finds the lock taken leaves at once (``report.busy`` says who holds it), or, to ``wait_for`` something,
        stays until that is answered (``report.answered``) or the lock is free.

        A selection is built by hand: of it, what is stale and not held, after what it needs and was never built. It
        waits for the lock; ``report.stale_below`` says what is stale since. If others left their build to this holder
        of the lock meanwhile, all that is due is built then, as they would have.

        Args:
            who: how others are told who builds; this process and host are added.
            progress: takes a line for people on each step.
            rounds: how many dbt runs it makes at most for what became stale after it began; None: until nothing is
                stale. What was stale when it began is built in any case.
            wait_for: sources, whose loads up to now are to be answered: what is downstream of them built, held or
                failed.
            select: names of sources (with all that is downstream of them) or of nodes, or selectors of dbt's grammar,
                which dbt resolves.
            exclude: the same, for what is left out; without ``select``, of the whole project.
            force: build all of the selection, be it up to date, held or failing.
            full_refresh: the same, with dbt's ``--full-refresh``.
            event_time_start: the same, and of microbatch models the batches from here on. Without a time zone: UTC.
            event_time_end: to here, exclusive.

        Raises:
            LineageError: nothing in the project is called so, or matches a selector.
            SettingsError: what was asked for goes ill together.
            DbtError: dbt could not be run.
            ManifestError, LedgerError: the manifest or ledger cannot be read or written. What was not recorded is still
                stale.
        """
        if select or exclude:
            lineage = self.lineage
            wanted = HandBuild.of(
                lineage,
                selected(lineage, self._dbt, select, exclude).nodes,
                force=force,
                full_refresh=full_refresh,
                event_time_start=event_time_start,
                event_time_end=event_time_end,
            )
            return self._build_by_hand(wanted, who, progress)
        if force or full_refresh or event_time_start or event_time_end:
            raise SettingsError("say what to force: select names nodes, or takes dbt's selectors; '*' is all")
        report = BuildReport()
        me = _me(who)
        is_left = False
        tried: dict[str, int] = {}
        retries = self._retries(progress)
        bound = _Bound(rounds)
        wait = _Wait(self, wait_for, report, progress) if wait_for else None
        names, said = self._found
        self.ledger.register_producers(sorted(names))
        for line in said:
            progress(line)
        while True:
            with self.ledger.build_lock(who=me) as held:
                if is_ours := bool(held):
                    report.busy = None
                    missing: frozenset[str] | None = None
                    while True:
                        missing, more = self._build_once(report, tried, retries, bound, missing, held, progress)
                        if not more:
                            break
                        held.check()
            if not is_ours:
                if wait is None and not is_left:
                    # Who builds by hand looks at this when it lets go. Once more: that may have been just now.
                    self.ledger.set_mark(LEFT_TO_HOLDER, uuid.uuid4().hex)
                    is_left = True
                    continue
                holder = self.ledger.holder()
                report.busy = f"{holder.who} (since {holder.since:%H:%M:%S} UTC)" if holder else "another process"
                if wait is None:
                    progress(report.summary())
                if wait is None or wait.is_over():
                    return report
                continue
            if report.more:
                return report
            # A load that was recorded after the last plan found the lock still taken, and left it to us.
            lineage = self._current.as_read()
            snapshot = self._seen_with(lineage, self.ledger.snapshot(history_of=_with_history(lineage, self._loading)))
            if self._plan(lineage, snapshot, _not_again(lineage, snapshot, tried)).is_empty:
                return report

    def _build_by_hand(self, wanted: HandBuild, who: str | None, progress: Progress) -> BuildReport:
        report = BuildReport()
        tried: dict[str, int] = {}
        retries = self._retries(progress)
        missing: frozenset[str] | None = None
        with self._lock_by_hand(report, who, progress) as held:
            more = True
            while more:
                missing, more = self._build_once(
                    report, tried, retries, _Bound(None), missing, held, progress, by_hand=wanted
                )
                held.check()
        report.stale_below = self._stale_below(report.built)
        if not report.runs and not report.held:
            progress("Nothing of what is selected is stale. To build it all the same: force (--force).")
        return report

    def run_dbt(
        self,
        args: Sequence[str],
        *,
        who: str | None = None,
        progress: Progress = lambda _: None,
        echo: Callable[[str], object] = print,
    ) -> tuple[int, BuildReport]:
        """Run any dbt command here: one that builds, under the build lock, with what it built well recorded.

        The project, its target, vars and folders are those of the settings; ``dbt_flags`` are not added. A command that
        builds nothing (``ls``, ``compile``, ``docs``, ...) is passed on as it is.

        Args:
            args: the command's words, without ``dbt``.
            who: how others are told who builds.
            progress: takes a line for people on each step.
            echo: takes each line that dbt says, of a command that runs under the lock.

        Returns:
            dbt's exit code, and what was recorded.

        Raises:
            SettingsError: the command would build somewhere else than the ledger tells of, or a part of the rows.
            DbtError: dbt could not be started, or the project does not parse.
            LedgerError: the ledger cannot be read or written, or the lock was lost.
        """
        typed = TypedCommand.of(args)
        dbt = dbt_for_commands(self.project, self.settings)
        report = BuildReport()
        if not typed.is_known:
            progress(f"`dbt {typed.name}` is not known here: it runs without the build lock, and nothing is recorded.")
        if not typed.is_locked:
            return dbt.pass_on(typed.args), report
        with self._lock_by_hand(report, who, progress) as held:
            lineage = self.lineage
            batches = any(lineage.microbatch(node) for node in lineage.nodes)
            missing = self._dbt.missing_relations(lineage) if batches else None
            tick, snapshot = self.ledger.begin_build(now=self._clock(), history_of=(), who=who)
            # It may write into any table, and not all that it does is known afterwards.
            self.ledger.forget_contents(node for node, fact in snapshot.nodes.items() if fact.content)
            code, recorder, outcome = run_typed(
                typed,
                dbt,
                ledger=self.ledger,
                held=held,
                lineage=lineage,
                tick=tick,
                snapshot=snapshot,
                missing=missing or (),
                clock=self._clock,
                echo=echo,
            )
        for line in recorder.notes:
            progress(line)
        report.runs = 1
        report.built, report.failed = recorder.built, recorder.failed
        report.partial = {each.unique_id: list(each.failed_batches) for each in outcome.results if each.failed_batches}
        report.stale_below = self._stale_below(report.built)
        return code, report

    @contextmanager
    def _lock_by_hand(self, report: BuildReport, who: str | None, progress: Progress) -> Iterator[BuildLock]:
        """Hold the build lock, for which this waits; afterwards build all that is due, if others left that to us."""
        left: str | None = None
        error: DbtError | None = None
        try:
            with build_lock_by_hand(self.ledger, _me(who), progress) as (held, left):
                yield held
        except DbtError as failed:  # no fault of theirs
            error = failed
        if self.ledger.mark(LEFT_TO_HOLDER) != left:
            progress("Others found the build lock taken meanwhile and left their build to this call: building it.")
            theirs = self.build(who=who, progress=progress)
            progress(theirs.summary())
            report.more = theirs.more
        if error is not None:
            raise error

    def _stale_below(self, nodes: Collection[str]) -> list[str]:
        """Return what is stale below these nodes, parents first."""
        plan = self.plan()
        graph = plan_graph(self._current.as_read())
        built = {graph.index[node] for node in nodes if node in graph.index}
        below = set(built)
        for number in range(graph.source_count, len(graph.ids)):
            if not below.isdisjoint(graph.parents[number]):
                below.add(number)
        stale = {*plan.build, *plan.perhaps, *plan.tests_only, *plan.passed_through, *plan.held}
        return [each for number in sorted(below - built) if (each := graph.ids[number]) in stale]

    def _build_once(
        self,
        report: BuildReport,
        tried: dict[str, int],
        retries: Retries,
        bound: _Bound,
        missing: frozenset[str] | None,
        held: BuildLock,
        progress: Progress,
        by_hand: HandBuild | None = None,
    ) -> tuple[frozenset[str] | None, bool]:
        """Plan and build once; returns the relations that are gone, if it was asked, and whether to plan again."""
        lineage = self.lineage
        self._name_all(lineage, progress)
        self._loading = self._ask_loading(lineage)
        tick, snapshot = self.ledger.begin_build(
            now=self._clock(), history_of=_with_history(lineage, self._loading), keep=_longest_lag(lineage)
        )
        self._take_identities(lineage, snapshot)
        snapshot = self._seen_with(lineage, snapshot)
        if missing is None and self._dbt.has_callbacks:
            missing = self._missing_relations(lineage, snapshot)
        limits = by_hand.to_plan(lineage, self.settings.views, report.built, tried) if by_hand else Limits()
        again = _not_again(lineage, snapshot, tried)
        # What is built by hand is built at once, and counts as changed.
        compares = not by_hand and report.runs < _STAGES
        plan = self._plan(lineage, snapshot, again, missing or (), *limits, compares=compares)
        batches = (node for node in plan.build if node in snapshot.nodes and lineage.microbatch(node))
        if missing is None and (plan.tests_only or any(batches)):
            # What is gone cannot be tested, and dbt is told since when to build batches of what is there.
            missing = self._missing_relations(lineage, snapshot)
            plan = self._plan(lineage, snapshot, again, missing, *limits, compares=compares)
        report.take_plan(plan)
        if not report.runs:
            for line in plan.notes:
                progress(line)
        report.held, report.next_due, report.not_built = plan.held, plan.next_due, list(plan.not_built)
        waits = {node: each for node, each in plan.held.items() if each.reason in ("failed", "failing")}
        report.blocked = [node for node, each in waits.items() if each.waiting_for]
        report.failing = {
            node: each.detail or "failed"
            for node, each in waits.items()
            if each.reason == "failing" and not each.waiting_for and node not in tried
        }
        if plan.is_empty:
            return self._gone_at_end(lineage, snapshot, tried, report) if missing is None else (missing, False)
        gone_by_now = missing or frozenset()
        if not bound.lets(snapshot, lambda then: self._plan(lineage, then, tried, gone_by_now)):
            report.more = [*plan.build, *plan.tests_only, *plan.passed_through]
            return missing, False
        # Before dbt runs, which writes the manifest anew: it is read again for them.
        identities = {node: lineage.identity_parts(node) for node in (*plan.build, *plan.passed_through)}
        # What was tried before in this call may be there by now, with some of its batches.
        gone = gone_by_now - retries.begun
        in_part = by_hand.in_part(lineage, plan.build, snapshot.nodes, gone, self._clock()) if by_hand else frozenset()

        def record(node: str) -> None:
            if node in plan.tests_only:
                self.ledger.record_tested(tick, [node])
                return
            self.ledger.record_built(
                tick,
                [node] if node not in in_part else [],
                built_at=self._clock(),
                identities={node: identities[node]},
                seconds={} if node in plan.passed_through else recorder.seconds_of(node),
            )

        recorder = BuildRecorder(
            self._tests_to_run(plan, plan.build),
            record,
            lambda node: self.ledger.take_back(tick, [node]),
            passed=self._tests_to_run(plan, (*plan.tests_only, *plan.passed_through)),
            tested_by=lineage.tested_by,
            check=held.check_now_and_then,
            record_failed=lambda failed: self.ledger.record_failed(
                tick,
                {node: why for node, why in failed.items() if node not in in_part},
                failed_at=self._clock(),
                identities={node: failure_identity(lineage, node) for node in failed},
            ),
            retries=retries,
        )
        if plan.select:
            exclude = plan.exclude if self.settings.dbt_command == "build" else ()
            flags = (*by_hand.flags, *self.settings.dbt_flags) if by_hand else self.settings.dbt_flags
            times = event_times(lineage, plan.build, snapshot.nodes, gone, self._clock(), flags)
            times = (*by_hand.flags, *times) if by_hand else times
            progress(shown_command(self.settings, plan.select, exclude, times))
            report.runs += 1
            expected = self._estimate(lineage, plan)
            begun = time.monotonic()
            # New data alone leaves a node stale until it is built well, and what was never built is stale anyway.
            # And a build that fails may spoil what is there and was to be tested.
            doubtful = plan.changed_code | (gone_by_now & snapshot.nodes.keys()) | snapshot.untested.keys()
            if by_hand:
                doubtful |= limits.forced - in_part
                self._ask_for_what_reads(lineage, in_part, plan.build)
                if in_part:
                    progress(f"Not all batches that are due are built now: {few(sorted(in_part))} is no less stale.")
            retries.begun.update(plan.build)
            self.ledger.begin_nodes(tick, [node for node in plan.build if node in doubtful])
            facts = snapshot.nodes
            self.ledger.forget_contents(node for node in plan.build if node in facts and facts[node].content)
            if exclude:
                progress(
                    f"Left out for now: {count(len(exclude), 'test')} that also read what is held or was never built."
                )
            # Only where there are any: an engine of a user's own may know no flags.
            try:
                outcome = self._dbt.build(plan.select, exclude, recorder.on_result, *([times] if times else []))
            except DbtError as error:
                if not retries.after(error):
                    raise
                report.built += [node for node in recorder.built if node not in report.built]
                return missing and missing.difference(recorder.built), True
            if expected is not None:
                report.took(time.monotonic() - begun, expected)
            recorder.finish(outcome.results, cut_short=outcome.cut_short)
            if recorder.ledger_error is None:
                self._note_untested(tick, recorder, {node: identities[node] for node in identities.keys() - in_part})
            for line in recorder.notes:
                progress(line)
            good = {each.unique_id for each in outcome.results if each.status in BUILT | PASSED}
            report.failed = {each: why for each, why in report.failed.items() if each not in good}
            report.partial.update(
                {each.unique_id: list(each.failed_batches) for each in outcome.results if each.failed_batches}
            )
        report.built += [node for node in recorder.built if node not in report.built]
        report.tested += [node for node in recorder.passed if node in plan.tests_only]
        for node in (*recorder.built, *recorder.passed):
            tried.pop(node, None)
            report.partial.pop(node, None)
        report.failed.update(recorder.failed)
        report.unreported += [each for each in recorder.unreported if each in plan.build]
        report.unplanned += recorder.unplanned
        tried.update(dict.fromkeys(recorder.done_with, tick))
        if recorder.ledger_error is not None:
            raise recorder.ledger_error
        self._compare(plan, recorder.built, lineage, snapshot, held, report, progress)
        if recorder.retried:
            report.retried |= {node: retries.retried[node] for node in recorder.retried}
            retries.wait(recorder.retried)
        return missing and missing.difference(recorder.built, recorder.untested), True

    def _note_untested(self, tick: int, recorder: BuildRecorder, identities: Mapping[str, Mapping[str, str]]) -> None:
        """Note what needs no build any more, only its tests; and what was only tested and needs a build after all."""
        untested = [node for node in recorder.untested if node in identities]
        self.ledger.record_untested(
            tick, untested, built_at=self._clock(), identities={node: identities[node] for node in untested}
        )
        self.ledger.begin_nodes(tick, [node for node in recorder.untestable if node not in identities])

    def _ask_for_what_reads(self, lineage: Lineage, in_part: Collection[str], build: Collection[str]) -> None:
        """Ask for what reads models that are built in part: that is no good build of theirs, which would say so."""
        graph = plan_graph(lineage)
        for node in in_part:
            below = [graph.ids[number] for number in graph.children[graph.index[node]]]
            self.ledger.ask_for([each for each in below if each not in build], reason=f"batches of {node} were built")

    def _compare(
        self,
        plan: BuildPlan,
        built: Iterable[str],
        lineage: Lineage,
        snapshot: LedgerSnapshot,
        held: BuildLock,
        report: BuildReport,
        progress: Progress,
    ) -> None:
        """Record what was built well and came out as it was; until then it counts as changed.

        Nothing else can have built it since: the lock is held, and what reads it waits for the next plan, if it reads
        it for this alone.
        """
        compared = {node: plan.compared[node] for node in built if node in plan.compared}
        contents = self._dbt.contents(lineage, compared) if compared else {}
        if contents:
            held.check()
            facts = snapshot.nodes
            same = [node for node in contents if node in plan.maybe_same and contents[node] == facts[node].content]
            self.ledger.record_contents(snapshot.tick, contents, unchanged=same)
            report.unchanged += [node for node in same if node not in report.unchanged]
            if same:
                progress(f"Came out as before: {few(map(last_name, same))}.")

    def _retries(self, progress: Progress) -> Retries:
        settings = self.settings
        delay = timedelta(seconds=settings.node_retry_delay)
        return Retries(settings.node_retries, delay, settings.retry_on, progress=progress)

    def _gone_at_end(
        self, lineage: Lineage, snapshot: LedgerSnapshot, tried: dict[str, int], report: BuildReport
    ) -> tuple[frozenset[str], bool]:
        """Return the relations that are gone, when all else is built, and whether there is something to build for it.

        So it is asked where a question to dbt is a process of its own: no load waits for it. What failed in this call
        below such a relation failed for want of it, and may be tried again.
        """
        if snapshot.nodes.keys() <= set(report.built):
            return frozenset(), False
        missing = self._missing_relations(lineage, snapshot)
        gone = (missing & snapshot.nodes.keys()) - tried.keys()
        again = _below(lineage, gone) & tried.keys()
        self.ledger.clear_failures(sorted(again))
        for node in again:
            del tried[node]
        return missing, bool(gone)

    def _name_all(self, lineage: Lineage, progress: Progress) -> None:
        """Give updates that were kept as named to the sources that this manifest knows by these names."""
        unresolved = self.ledger.snapshot(history_of=()).unresolved
        if known := _resolved(lineage, unresolved):
            self.ledger.resolve_names(known)
        if unknown := sorted(unresolved.keys() - known.keys()):
            progress(
                f"Loaded, and not in {lineage.where}: {few(unknown)}. Kept until a source has that name, or "
                "`lineage-orch forget` takes it out."
            )

    def _take_identities(self, lineage: Lineage, snapshot: LedgerSnapshot) -> None:
        """Give rows that a ledger of 0.1.0 holds their identity, where the checksum that it kept still agrees."""
        unknown = {
            node: lineage.identity_parts(node)
            for node, fact in snapshot.nodes.items()
            if fact.identity is None and node in lineage.nodes and fact.checksum in (None, lineage.nodes[node].checksum)
        }
        if unknown:
            self.ledger.take_identities(unknown)

    def _tests_to_run(self, plan: BuildPlan, nodes: Iterable[str]) -> Mapping[str, frozenset[str]]:
        if self.settings.dbt_command != "build":
            return dict.fromkeys(nodes, frozenset())
        return {node: plan.tests_on(node) for node in nodes}

    # Questions --------------------------------------------------------------------------------------------

    def history(self, names: Iterable[str] = (), *, since: datetime, limit: int = 20_000) -> list[Event]:
        """Return what was loaded, built and failed since a time, and by whom, the newest first.

        Args:
            names: of sources and nodes, as for :meth:`named`; none means all of the project.
            since: from when (aware).
            limit: how many of the newest loads, builds and failures are read at most, of each.

        Raises:
            UnknownNodeError: nothing goes by a name.
        """
        from lineage_orch.reports.history import events

        wanted = list(names)
        return events(self.ledger.history(since, limit=limit), self.named(wanted) if wanted else None)

    def named(self, names: Iterable[str]) -> frozenset[str]:
        """Return the unique_ids of the sources and nodes that are meant by names, patterns, or dbt's selectors.

        dbt is asked only for what its grammar alone has, such as ``tag:daily``.

        Raises:
            UnknownNodeError: nothing goes by that name.
            DbtError: dbt cannot be asked.
        """
        lineage = self.lineage
        found: set[str] = set()
        for name in names:
            try:
                found |= lineage.named(name)
            except UnknownNodeError:
                listed = self._dbt.ls(name) if any(each in name for each in ":/,@ ") else None
                if not listed:
                    raise
                found.update(listed)
        return frozenset(found)

    def status(self) -> Status:
        """Return what the ledger knows of each source and node, and what is stale."""
        from lineage_orch.reports.status import status

        lineage = self.lineage
        snapshot = self._seen_with(lineage, self.ledger.snapshot(history_of=_with_history(lineage, self._loading)))
        return status(lineage, snapshot, self._plan(lineage, snapshot), self.ledger.holder())

    def activity(self, since: datetime) -> Activity:
        """Return what was loaded and built since a time (aware), and what one dbt command per load would have cost."""
        from lineage_orch.reports.activity import activity

        lineage = self.lineage
        history = self.ledger.history(since, limit=_ALL)
        return activity(lineage, history, self.ledger.median_seconds(lineage.nodes), since, self._clock())

    def seems_done(self) -> bool:
        """Whether nothing is due, as far as that can be said without dbt; False where it cannot."""
        try:
            found = self._as_last_parsed()
        except LineageOrchError as error:
            logger.debug("What is due cannot be said now: %s", error)
            return False
        return found is not None and self._plan(*found).is_empty

    def _as_last_parsed(self) -> tuple[Lineage, LedgerSnapshot] | None:
        """Return the lineage as dbt parsed it last, and the ledger; None where its files say something else by now."""
        if self.settings.manifest is None and self.project.manifest_is_stale():
            return None
        lineage = self._current.as_read()
        return lineage, self._seen_with(lineage, self.ledger.snapshot(history_of=_with_history(lineage, self._loading)))

    def explain(self, node: str) -> Explanation:
        """Say why a node will build, is held or is up to date, along the path from its sources.

        Raises:
            UnknownNodeError: no such node in the manifest.
        """
        from lineage_orch.reports.explain import explain

        lineage = self.lineage
        snapshot = self._seen_with(lineage, self.ledger.snapshot(history_of=_with_history(lineage, self._loading)))
        plan = self._plan(lineage, snapshot)
        return explain(lineage, snapshot, plan, lineage.resolve_node(node), stored_parts=self.ledger.identity_parts)

    def page(self, *, days: int = 14, producers: Mapping[str, Sequence[str]] | None = None) -> Page:
        """Return what a picture of the lineage shows: everything with its state and why, and what happened of late.

        Args:
            days: of how many days loads, builds and failures are shown.
            producers: the names of those that load each source, by its unique_id; by default those of the ledger.

        Raises:
            ManifestError, DbtError, LedgerError: the manifest or ledger cannot be read.
        """
        from lineage_orch.reports.page import read_page
        from lineage_orch.reports.status import status

        now, project, lineage = self._clock(), self.project, self.lineage
        since = now - timedelta(days=days)
        snapshot = self._seen_with(lineage, self.ledger.snapshot(history_of=_with_history(lineage, self._loading)))
        plan = self._plan(lineage, snapshot)
        return read_page(
            lineage,
            snapshot,
            plan,
            status(lineage, snapshot, plan, self.ledger.holder()),
            self.ledger.history(since),
            title=f"{project.name} ({project.target})",
            producers=self.ledger.producers() if producers is None else producers,
            since=since,
            now=now,
            stored_parts=self.ledger.identity_parts,
        )

    # adopt ------------------------------------------------------------------------------------------------

    def adoption(self, select: Iterable[str] = ()) -> Adoption:
        """Return what :meth:`adopt` would declare; changes nothing.

        Args:
            select: names of sources (with all that is downstream of them) or of nodes, or selectors of dbt's
                grammar; none means the whole project.

        Raises:
            LineageError: a name is not in the manifest.
        """
        lineage = self.lineage
        snapshot = self._seen_with(lineage, self.ledger.snapshot(history_of=()))
        found = selected(lineage, self._dbt, tuple(select))
        gone = self._dbt.missing_relations(lineage) or frozenset()
        return Adoption(
            sources=tuple(each for each in found.sources if each not in snapshot.sources),
            nodes=tuple(each for each in found.nodes if each not in gone and each not in snapshot.failures),
            failed=tuple(each for each in found.nodes if each not in gone and each in snapshot.failures),
            missing=tuple(each for each in found.nodes if each in gone),
        )

    def adopt(self, select: Iterable[str] = (), *, forgive_failed: Collection[str] = ()) -> Adoption:
        """Declare the warehouse as it stands as loaded and built: a baseline.

        For a warehouse that was built before lineage_orch came. What is never loaded counts as loaded, which makes no
        source move (``updates_on: all`` does not wait for it); nodes count as built with their code of now. A node
        whose last build failed, or whose relation is not in the warehouse, stays as it is. Loads recorded meanwhile
        stay news. Takes the build lock; if others left their build to its holder meanwhile, that is built then.

        Args:
            select: names of sources (with all that is downstream of them) or of nodes, or selectors of dbt's
                grammar; none means the whole project.
            forgive_failed: the nodes whose failure is forgiven: they count as built.

        Raises:
            LineageError: a name is not in the manifest.
            LedgerError: another process builds now, or the ledger cannot be written.
        """
        from lineage_orch.errors import LedgerError

        lineage = self.lineage
        forgiven = {lineage.resolve_node(each) for each in forgive_failed}
        left = self.ledger.mark(LEFT_TO_HOLDER)
        with self.ledger.build_lock(who=f"adopt, process {os.getpid()}") as held:
            if not held:
                holder = self.ledger.holder()
                raise LedgerError(f"{holder.who if holder else 'another process'} builds now; adopt when it is done")
            before = self.ledger.snapshot(history_of=()).tick
            found = self.adoption(select)
            now = self._clock()
            self.ledger.record_updates(
                [SourceUpdate(source, f"adopt:{uuid.uuid4().hex}", now) for source in found.sources],
                now=now,
                baseline=True,
            )
            tick, snapshot = self.ledger.begin_build(now=now, history_of=())
            snapshot = self._seen_with(lineage, snapshot)
            # What was loaded since this began is news: what is downstream of it is left as it is.
            late = [
                source
                for source in lineage.sources
                if snapshot.sources.get(source, 0) > before and source not in snapshot.baselines
            ]
            news = lineage.downstream(*late) if late else frozenset()
            nodes = tuple(
                node
                for node in (*found.nodes, *(each for each in found.failed if each in forgiven))
                if node not in news
            )
            self.ledger.record_built(
                tick, nodes, built_at=now, identities={node: lineage.identity_parts(node) for node in nodes}
            )
        if self.ledger.mark(LEFT_TO_HOLDER) != left:
            try:
                logger.info("Others left their build to this: %s", self.build(who="adopt", rounds=None).summary())
            except DbtError as error:  # what was adopted is adopted
                logger.warning("Others left their build to this, and dbt could not be run: %s", error)
        return replace(
            found, nodes=nodes, failed=tuple(each for each in found.failed if each not in forgiven), tick=tick
        )


class _Bound:
    """How much one call builds: all that was stale when it began, and some rounds of what became stale since."""

    def __init__(self, rounds: int | None) -> None:
        self._rounds = rounds
        self._first: LedgerSnapshot | None = None

    def lets(self, snapshot: LedgerSnapshot, plan: Callable[[LedgerSnapshot], BuildPlan]) -> bool:
        """Whether the call goes on.

        Args:
            snapshot: the ledger now, by which something is to be built.
            plan: what of a ledger is to be built, without what this call tried.
        """
        if self._first is None:
            self._first = snapshot
        elif self._rounds is not None and plan(_as_loaded_then(snapshot, self._first)).is_empty:
            self._rounds -= 1
            return self._rounds >= 0
        return True


class _Wait:
    """The wait of a call that found the lock taken, for others to answer the loads of some sources up to now."""

    def __init__(
        self, orchestrator: Orchestrator, sources: Collection[str], report: BuildReport, progress: Progress
    ) -> None:
        self._orchestrator = orchestrator
        self._sources = sorted(set(sources))
        self._report = report
        self._progress = progress
        self._first: LedgerSnapshot | None = None
        self._say_at = 0.0

    def is_over(self) -> bool:
        """Whether they are answered, which the report then says; sleeps a while if not."""
        began = time.monotonic()
        if self._is_answered():
            self._progress(self._report.summary())
            return True
        if began >= self._say_at:
            self._say_at = began + _SAY_AGAIN
            self._progress(
                f"{self._report.busy} builds now: waiting until what is downstream of {few(self._sources)} is built."
            )
        # A look reads the ledger and plans: cheap for most projects, and never most of what a waiting process does.
        time.sleep(max(_LOOK_AGAIN, 10 * (time.monotonic() - began)))
        return False

    def _is_answered(self) -> bool:
        it = self._orchestrator
        try:
            found = it._as_last_parsed()
        except ManifestError as error:
            logger.debug("What others build cannot be said now: %s", error)
            return False
        if found is None:
            return False  # whoever builds has it parsed
        lineage, snapshot = found
        self._first = first = self._first or snapshot
        below = lineage.downstream(*chain.from_iterable(_resolved(lineage, self._sources).values()))
        failed = {each: fact for each, fact in snapshot.failures.items() if fact.tick > first.tick}
        plan = it._plan(lineage, _as_loaded_then(snapshot, first), failed)
        if not below.isdisjoint((*plan.build, *plan.perhaps, *plan.tests_only, *plan.passed_through)):
            return False
        self._report.answered = True
        self._report.failing = {node: fact.message for node, fact in failed.items() if node in below}
        self._report.held = {node: held for node, held in plan.held.items() if node in below}
        self._report.next_due = plan.next_due
        return True


def _as_loaded_then(snapshot: LedgerSnapshot, then: LedgerSnapshot) -> LedgerSnapshot:
    """Return a snapshot without what was loaded and asked for since an earlier one."""
    return replace(snapshot, sources=then.sources, debts=then.debts)


def _me(who: str | None) -> str:
    """Return how others are told who builds."""
    import socket

    return f"{who + ', ' if who else ''}process {os.getpid()} on {socket.gethostname()}"


def _resolved(lineage: Lineage, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the sources of those of these names that the manifest knows; templates are none of them."""
    out: dict[str, tuple[str, ...]] = {}
    for name in names:
        try:
            out[name] = lineage.resolve_sources(name)
        except LineageError:
            continue  # whoever needs it asks again, and tells what is wrong with it
    return out


def _with_history(lineage: Lineage, loading: Iterable[str] = ()) -> dict[str, tuple[str, ...]]:
    """Whose history a plan asks for: what nodes of which it asks since when data waits read; and which of them.

    These are the nodes with a ``lag_tolerance``, those below a source that is being loaded, and all above them. The
    table of updates may have millions of rows.
    """
    graph = plan_graph(lineage)
    timed = timed_nodes(graph, nodes_below(graph, {graph.index[source] for source in loading}))
    lagging = {number for number in timed if number >= graph.source_count}
    return {
        graph.ids[number]: tuple(graph.ids[child] for child in graph.children[number] if child in lagging)
        for number in {parent for node in lagging for parent in graph.parents[node]}
    }


def _longest_lag(lineage: Lineage) -> timedelta:
    """How much history is needed: since when data waits is read there, and cut off before, it would wait for ever."""
    policies = plan_graph(lineage).policies.values()
    longest = max((each.lag_tolerance for each in policies if each.lag_tolerance is not None), default=timedelta(0))
    return longest + min(timedelta(days=1), timedelta.max - longest)


def _below(lineage: Lineage, nodes: Collection[str]) -> frozenset[str]:
    """Return all nodes that read some of these, directly or not."""
    graph = plan_graph(lineage)
    above = {graph.index[node] for node in nodes if node in graph.index}
    found = set()
    for number in range(graph.source_count, len(graph.ids)):  # parents come before children
        if not above.isdisjoint(graph.parents[number]):
            above.add(number)
            found.add(graph.ids[number])
    return frozenset(found)


def _not_again(lineage: Lineage, snapshot: LedgerSnapshot, tried: Mapping[str, int]) -> frozenset[str]:
    """What was tried in this call and is not built well, unless a source above it was loaded since."""
    if not tried:
        return frozenset()
    graph = plan_graph(lineage)
    again = set()
    for node, tick in tried.items():
        seen = {graph.index[node]} if node in graph.index else set()
        stack = list(seen)
        while stack:
            for parent in graph.parents[stack.pop()]:
                if parent < graph.source_count:
                    if snapshot.sources.get(graph.ids[parent], 0) > tick:
                        again.add(node)
                elif parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
    return frozenset(tried.keys() - again)
