"""Record -> plan -> build -> record, under one lock."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lineage_orch.builds.adoption import Adoption, adoption, declare
from lineage_orch.builds.backfill import Backfill, slices
from lineage_orch.builds.bounds import ROUNDS, Bound, Wait
from lineage_orch.builds.by_hand import LEFT_TO_HOLDER, HandBuild, build_lock_by_hand, selected
from lineage_orch.builds.call import BuildCall
from lineage_orch.builds.elsewhere import built_elsewhere, check_cycle
from lineage_orch.builds.run import OnNode
from lineage_orch.builds.typed import TypedCommand, run_typed
from lineage_orch.builds.workspace import Workspace, resolved
from lineage_orch.dbt.choice import choose_dbt, dbt_for_commands
from lineage_orch.dbt.current import CurrentLineage
from lineage_orch.dbt.engine import DbtEngine
from lineage_orch.dbt.freshness import Freshness, read_sources_json
from lineage_orch.dbt.microbatch import moment
from lineage_orch.dbt.observation import Observation, observe, to_look_at
from lineage_orch.dbt.project import DbtProject
from lineage_orch.errors import (
    DbtError,
    LedgerError,
    LineageError,
    LineageOrchError,
    SettingsError,
    UnknownNodeError,
    UnknownSourceError,
    did_you_mean,
)
from lineage_orch.ledger import Ledger
from lineage_orch.ledger.snapshot import EVERYTHING
from lineage_orch.lineage import Lineage
from lineage_orch.loads.declaration import is_pattern
from lineage_orch.plan import BuildPlan, Estimate, below, read_promises
from lineage_orch.plan.windows import extents_asked
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.settings import LineageOrchSettings
from lineage_orch.text import few
from lineage_orch.updates import SourceUpdate, Window

if TYPE_CHECKING:
    from lineage_orch.ledger.lock import BuildLock
    from lineage_orch.lineage.followers import Follower
    from lineage_orch.reports.activity import Activity
    from lineage_orch.reports.explanation import BuiltBy, Explanation
    from lineage_orch.reports.followers import FollowerStatus
    from lineage_orch.reports.freshness import FreshnessReport
    from lineage_orch.reports.history import Event
    from lineage_orch.reports.page import Page
    from lineage_orch.reports.status import Status

logger = logging.getLogger(__name__)

_ALL = 10**9  # More than a ledger has of anything.

Progress = Callable[[str], Any]


class Orchestrator:
    """One dbt project and target: what was loaded, what is stale, and how it gets built.

    Args:
        settings: by default read from the environment and pyproject.toml.
        dbt: what runs dbt, or the setting ``dbt``; by default as the setting says.
        ledger: a ledger, or the url of one; by default the one that the settings name.
        clock: returns the time now (aware); only the policies look at it.
        progress: takes a line for people when the project is parsed, which may take a while.
        overrides: single settings to replace.

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
        self._dbt = dbt or choose_dbt(self.project, self.settings)
        self._owns_ledger = ledger is None
        self.ledger = ledger or self.project.open_ledger(self.settings.ledger, keep_days=self.settings.keep_days)
        self._clock = clock
        self._current = CurrentLineage(self.project, self.settings.manifest, self._dbt.parse, progress=progress)
        self._workspace = Workspace(self.settings, self.project, self._dbt, self.ledger, self._current, clock)

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

    @property
    def loading(self) -> Callable[[], Iterable[str]]:
        """Returns the names of the sources that are being loaded now, or are about to be.

        Asked for each plan of a build, where the setting ``patience`` says that their loads are waited for. A
        deployment knows them.
        """
        return self._workspace.loading

    @loading.setter
    def loading(self, loading: Callable[[], Iterable[str]]) -> None:
        self._workspace.loading = loading

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

    @property
    def lineage_as_parsed(self) -> Lineage:
        """The project's lineage as dbt parsed it last, for who only tells of what was done; see :attr:`lineage`."""
        return self._current.for_names()

    def parse(self) -> Lineage:
        """Have dbt parse the project anew, however new its manifest is; returns the lineage.

        Raises:
            ManifestError: the manifest cannot be read.
            DbtError: the project does not parse.
        """
        return self._current.now(parse=True)

    @property
    def tells_assets(self) -> bool:
        """Whether what runs dbt tells Prefect by itself, in a Prefect run, which assets it made."""
        return self._dbt.tells_assets

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
        before = self._workspace.facts(lineage)
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
        return resolved(lineage, names)

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
            names: of nodes and followers; none means all that fail.

        Returns:
            Their unique_ids.

        Raises:
            UnknownNodeError: no such node in the manifest.
        """
        lineage = self.lineage
        nodes = tuple(dict.fromkeys(self._node_or_follower(lineage, each) for each in names))
        nodes = nodes or tuple(self.ledger.snapshot(history_of=()).failures)
        self.ledger.clear_failures(nodes)
        return nodes

    def _node_or_follower(self, lineage: Lineage, name: str) -> str:
        try:
            return lineage.resolve_node(name)
        except UnknownNodeError:
            for each in self._workspace.followers(lineage):
                if name in (each.name, each.unique_id):
                    return each.unique_id
            raise

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

    def pause(
        self, names: Iterable[str], *, until: datetime | None = None, reason: str | None = None
    ) -> tuple[str, ...]:
        """Pause sources and nodes: loads are recorded, and nothing is built for them.

        A paused node is held, and so is what is stale below it. A paused source makes nothing stale.

        Args:
            names: of sources and nodes, as for :meth:`named`; ``*`` is all nodes, those to come too.
            until: when it ends by itself (aware); by default when it is resumed.
            reason: why, in words for people.

        Returns:
            The unique_ids, or ``*``.

        Raises:
            UnknownNodeError: nothing goes by a name.
            DbtError: dbt cannot be asked.
        """
        wanted = set(names)
        paused = {EVERYTHING} & wanted | self.named(wanted - {EVERYTHING})
        self.ledger.pause(paused, now=self._clock(), until=until, reason=reason)
        return tuple(sorted(paused))

    def resume(self, names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Let sources and nodes go on; ``*`` is all that is paused.

        Returns:
            What is resumed, and what is paused still: unique_ids, or ``*`` for all nodes.

        Raises:
            UnknownNodeError: nothing goes by a name, and nothing is paused under it.
            DbtError: dbt cannot be asked.
        """
        paused = self.ledger.snapshot(history_of=()).pauses
        wanted: set[str] = set()
        for name in names:
            wanted |= paused.keys() if name == EVERYTHING else {name} if name in paused else self.named([name])
        resumed = self.ledger.resume(wanted)
        return tuple(sorted(resumed)), tuple(sorted(paused.keys() - resumed))

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
                    out[self._node_or_follower(lineage, name)] = None
                except UnknownNodeError:
                    raise no_source from None
        self.ledger.forget(list(out))
        return tuple(out)

    # Plan -------------------------------------------------------------------------------------------------

    def plan(self, *, check_relations: bool = False) -> BuildPlan:
        """Return what a build would do now; changes nothing.

        Args:
            check_relations: also ask the warehouse which relations are gone, as a build does.

        Raises:
            ManifestError, DbtError, LedgerError: the manifest or ledger cannot be read.
            LineageError: the projects of the ledger go round in a circle.
        """
        lineage = self.lineage
        workspace = self._workspace
        check_cycle(self.ledger, lineage)
        workspace.ask_loading(lineage)
        snapshot = workspace.snapshot(lineage)
        missing = workspace.missing_relations(lineage, snapshot) if check_relations else frozenset()
        return workspace.plan(lineage, snapshot, missing=missing)

    def estimate(self, plan: BuildPlan) -> Estimate | None:
        """Return how long dbt will take for a plan, by how long its nodes took before; None where none was timed.

        Raises:
            ManifestError, DbtError, LedgerError: the manifest or ledger cannot be read.
        """
        return self._workspace.estimate(self._current.as_read(), plan)

    # Build ------------------------------------------------------------------------------------------------

    def build(
        self,
        *,
        who: str | None = None,
        progress: Progress = lambda _: None,
        on_node: OnNode = lambda _: None,
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
            on_node: told of the end of each node, and of each test that fails, as it happens; in dbt's threads, one
                at a time.
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
            return self._build_by_hand(wanted, who, progress, on_node)
        if force or full_refresh or event_time_start or event_time_end:
            raise SettingsError("say what to force: select names nodes, or takes dbt's selectors; '*' is all")
        report = BuildReport()
        me = _me(who)
        is_left = False
        call = BuildCall(self._workspace, report, progress, Bound(rounds), on_node=on_node)
        wait = Wait(self._workspace, wait_for, report, progress) if wait_for else None
        names, said = self._workspace.found_producers
        self.ledger.register_producers(sorted(names))
        for line in said:
            progress(line)
        with call:
            while True:
                with self.ledger.build_lock(who=me) as held:
                    if is_ours := bool(held):
                        report.busy = None
                        call.drain(held)
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
                # A load that was recorded after the last plan found the lock still taken, and left it to us.
                if report.more or not call.has_more():
                    self._tell_readers(report, progress)
                    return report

    def backfill(
        self,
        name: str,
        start: datetime | str,
        end: datetime | str,
        *,
        size: timedelta | None = None,
        again: bool = False,
        who: str | None = None,
        progress: Progress = lambda _: None,
    ) -> Backfill:
        """Build batches of the past again: those of all that is downstream of a source, or of one model and below it.

        Window by window is recorded, as a load would have, and built. A window that was recorded before is known: so a
        backfill that was interrupted, or failed, goes on where it was when it is called again. What is no microbatch
        model is built in each step; what a policy holds is built when it is due, with all windows up to then.

        Args:
            name: of a source, ``source_name.*``, or a microbatch model.
            start: from which event time on. Without a time zone: UTC.
            end: to here, exclusive.
            size: of the windows; by default there is one.
            again: also those that were recorded before.
            who: how others are told who builds.
            progress: takes a line for people on each step.

        Raises:
            LineageError: nothing in the project has that name.
            SettingsError: it has no batches, or the times are no window.
            DbtError: dbt could not be run.
            ManifestError, LedgerError: the manifest or ledger cannot be read or written.
        """
        first, last = moment(start, "start"), moment(end, "end")
        if first >= last:
            raise SettingsError(f"a backfill from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} is of no time")
        if size is not None and size < timedelta(hours=1):
            raise SettingsError("the slices of a backfill are an hour or longer, as batches are")
        backfill = Backfill.of(self.lineage, name)
        windows = slices(Window.of(first, last), size)
        for number, window in enumerate(windows, 1):
            if not backfill.record(self._workspace, window, again=again):
                backfill.known.append(window)
                if number < len(windows) or backfill.done:
                    continue
                progress("All of it was recorded before; what of that is not built yet is built now.")
            else:
                progress(f"Slice {number} of {len(windows)}: {window}")
                backfill.done.append(window)
            report = self.build(who=who, progress=progress, rounds=0, wait_for=backfill.sources)
            backfill.take(self._current.as_read(), report)
            if not backfill.ok:
                backfill.left.extend(windows[number:])
                break
        return backfill

    def _build_by_hand(self, wanted: HandBuild, who: str | None, progress: Progress, on_node: OnNode) -> BuildReport:
        report = BuildReport()
        call = BuildCall(self._workspace, report, progress, Bound(None), wanted, on_node)
        with self._lock_by_hand(report, who, progress) as held:
            call.drain(held)
        report.stale_below = self._stale_below(report.built)
        if not report.runs and not report.held:
            progress("Nothing of what is selected is stale. To build it all the same: force (--force).")
        self._tell_readers(report, progress)
        return report

    def _tell_readers(self, report: BuildReport, progress: Progress) -> None:
        """Say which other projects read what was built here: they find out by themselves when they plan."""
        for each in self.ledger.read_elsewhere() if report.built else ():
            report.read_elsewhere.append(str(each.scope))
            how = f"a run of {each.deployment}" if each.deployment else "`lineage-orch build` in that project"
            progress(f"{each.scope} reads what was built here ({few(each.sources)}): {how} builds what is below it.")

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
            self._workspace.take_in(lineage)
            tick, snapshot = self.ledger.begin_build(
                now=self._clock(), history_of=(), extents_of=extents_asked(lineage), who=who
            )
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
        self._tell_readers(report, progress)
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
        stale = {*plan.build, *plan.perhaps, *plan.tests_only, *plan.passed_through, *plan.held}
        built = set(nodes)
        return [each for each in below(self._current.as_read(), nodes) if each in stale and each not in built]

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
        snapshot = self._workspace.snapshot(lineage)
        return status(lineage, snapshot, self._workspace.plan(lineage, snapshot), self.ledger.holder())

    def freshness(self, *, as_parsed: bool = False) -> FreshnessReport:
        """Return how the promises on freshness of the project's sources and nodes are kept, by the ledger alone.

        Args:
            as_parsed: of the project as dbt parsed it last, whatever its files say by now.

        Raises:
            ManifestError, DbtError, LedgerError: the manifest or ledger cannot be read.
        """
        from lineage_orch.reports.freshness import FreshnessReport, read_freshness

        lineage = self.lineage_as_parsed if as_parsed else self.lineage
        now = self._clock().astimezone(UTC)
        if not (promises := read_promises(lineage)):
            return FreshnessReport(now, unreadable=promises.unreadable)
        snapshot = self._workspace.snapshot(lineage)
        return read_freshness(
            lineage,
            snapshot,
            promises,
            self._workspace.plan(lineage, snapshot),
            now=now,
            threads=self._workspace.threads,
            last_as_at=self.ledger.last_as_at,
            oldest_loads=self.ledger.oldest_loads,
            seconds=self.ledger.median_seconds,
        )

    def activity(self, since: datetime) -> Activity:
        """Return what was loaded and built since a time (aware), and what one dbt command per load would have cost."""
        from lineage_orch.reports.activity import activity
        from lineage_orch.reports.history import of_nodes

        lineage = self.lineage
        history = of_nodes(self.ledger.history(since, limit=_ALL))
        return activity(lineage, history, self.ledger.median_seconds(lineage.nodes), since, self._clock())

    def seems_done(self) -> bool:
        """Whether nothing is due, as far as that can be said without dbt; False where it cannot."""
        try:
            found = self._workspace.as_last_parsed()
        except LineageOrchError as error:
            logger.debug("What is due cannot be said now: %s", error)
            return False
        return found is not None and self._workspace.plan(*found).is_empty

    def followers(self) -> tuple[Follower, ...]:
        """Return what runs when models are fresh: exposures that name a deployment, and flows with ``@follows``."""
        return self._workspace.followers(self.lineage)

    def explain_follower(self, name: str) -> FollowerStatus:
        """Say why a follower will run, waits or is up to date.

        Args:
            name: of the flow or exposure, or its unique_id.

        Raises:
            UnknownNodeError: there is no such follower.
        """
        status = self.status()
        for each in status.followers:
            if name in (each.follower.name, each.follower.unique_id):
                return each
        raise UnknownNodeError(
            f"no follower {name!r}{did_you_mean(name, (each.follower.name for each in status.followers))}"
        )

    def explain(self, node: str) -> Explanation:
        """Say why a node will build, is held or is up to date, along the path from its sources.

        Raises:
            UnknownNodeError: no such node in the manifest.
        """
        from lineage_orch.reports.explain import explain

        lineage = self.lineage
        snapshot = self._workspace.snapshot(lineage)
        plan = self._workspace.plan(lineage, snapshot)
        return explain(
            lineage,
            snapshot,
            plan,
            lineage.resolve_node(node),
            stored_parts=self.ledger.identity_parts,
            built_by=self.built_by(),
        )

    def built_by(self) -> dict[str, BuiltBy]:
        """Return the sources that another project of the ledger builds, with its node and what that took in last."""
        from lineage_orch.reports.explanation import BuiltBy

        found = built_elsewhere(self.ledger, self.lineage)
        return {source: BuiltBy(each, tuple(self.ledger.origins(each))) for source, each in found.items()}

    def page(self, *, days: int = 14, producers: Mapping[str, Sequence[str]] | None = None) -> Page:
        """Return what a picture of the lineage shows: everything with its state and why, and what happened of late.

        Args:
            days: of how many days loads, builds and failures are shown.
            producers: the names of those that load each source, by its unique_id; by default those of the ledger.

        Raises:
            ManifestError, DbtError, LedgerError: the manifest or ledger cannot be read.
        """
        from lineage_orch.reports.history import of_nodes
        from lineage_orch.reports.page import read_page, with_promises
        from lineage_orch.reports.status import status

        now, project, lineage = self._clock(), self.project, self.lineage
        since = now - timedelta(days=days)
        snapshot = self._workspace.snapshot(lineage)
        plan = self._workspace.plan(lineage, snapshot)
        page = read_page(
            lineage,
            snapshot,
            plan,
            status(lineage, snapshot, plan, self.ledger.holder()),
            of_nodes(self.ledger.history(since)),
            title=f"{project.name} ({project.target})",
            producers=self.ledger.producers() if producers is None else producers,
            built_by=self.built_by(),
            since=since,
            now=now,
            stored_parts=self.ledger.identity_parts,
            medians=self.ledger.median_seconds(lineage.nodes),
        )
        return with_promises(page, self.freshness().rows)

    # adopt ------------------------------------------------------------------------------------------------

    def adoption(self, select: Iterable[str] = ()) -> Adoption:
        """Return what :meth:`adopt` would declare; changes nothing.

        Args:
            select: names of sources (with all that is downstream of them) or of nodes, or selectors of dbt's
                grammar; none means the whole project.

        Raises:
            LineageError: a name is not in the manifest.
        """
        return adoption(self._workspace, self.lineage, select)

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
        lineage = self.lineage
        forgiven = {lineage.resolve_node(each) for each in forgive_failed}
        left = self.ledger.mark(LEFT_TO_HOLDER)
        with self.ledger.build_lock(who=f"adopt, process {os.getpid()}") as held:
            if not held:
                holder = self.ledger.holder()
                raise LedgerError(f"{holder.who if holder else 'another process'} builds now; adopt when it is done")
            self._workspace.take_in(lineage)
            before = self.ledger.snapshot(history_of=()).tick
            found = declare(self._workspace, lineage, self.adoption(select), before, forgiven)
        if self.ledger.mark(LEFT_TO_HOLDER) != left:
            try:
                logger.info("Others left their build to this: %s", self.build(who="adopt", rounds=None).summary())
            except DbtError as error:  # what was adopted is adopted
                logger.warning("Others left their build to this, and dbt could not be run: %s", error)
        return found


def _me(who: str | None) -> str:
    """Return how others are told who builds."""
    import socket

    return f"{who + ', ' if who else ''}process {os.getpid()} on {socket.gethostname()}"
