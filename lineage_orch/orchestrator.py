"""Record -> plan -> build -> record, under one lock."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lineage_orch.dbt.choice import choose_dbt
from lineage_orch.dbt.command import shown_command
from lineage_orch.dbt.current import CurrentLineage
from lineage_orch.dbt.engine import Dbt
from lineage_orch.dbt.project import DbtProject
from lineage_orch.dbt.recorder import BuildRecorder
from lineage_orch.errors import LineageError, PolicyError
from lineage_orch.ledger import Ledger, LedgerSnapshot
from lineage_orch.lineage import Lineage
from lineage_orch.loads.declaration import can_mean, is_template
from lineage_orch.plan import BuildPlan, plan_builds, plan_graph
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.settings import LineageOrchSettings
from lineage_orch.updates import SourceUpdate

if TYPE_CHECKING:
    from lineage_orch.reports.explanation import Explanation
    from lineage_orch.reports.status import Status

Say = Callable[[str], Any]


class Orchestrator:
    """One dbt project and target: what was loaded, what is owed, and how it gets built.

    Args:
        settings: by default read from the environment and pyproject.toml.
        dbt: what runs dbt; by default as the setting ``dbt`` says.
        ledger: a ledger, or the url of one; by default the one that the settings name.
        clock: returns the time now (aware); only ``build_after`` and ``lag_tolerance`` look at it.
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
        dbt: Dbt | None = None,
        ledger: Ledger | str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        progress: Callable[[str], Any] = lambda _: None,
        **overrides: Any,
    ) -> None:
        if isinstance(ledger, str):
            overrides["ledger"], ledger = ledger, None
        self.settings = settings.with_overrides(**overrides) if settings else LineageOrchSettings(**overrides)
        self.project = DbtProject.find(self.settings)
        self._dbt: Dbt = dbt or choose_dbt(self.project, self.settings)
        self._owns_ledger = ledger is None
        self.ledger = ledger or Ledger(
            self.settings.ledger or self.project.ledger_url,
            project=self.project.name,
            target=self.project.target,
            keep_days=self.settings.keep_days,
        )
        self._clock = clock
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

        A manifest that is missing, or older than a file of the project, is made anew by ``dbt parse``, unless the
        setting ``manifest`` names one to use as it is.

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

        Sources may be named as people do, ``source_name.*`` included; a plain name is an update as of now.

        Raises:
            UnknownSourceError: a name is not in the manifest; all others were recorded.
            LedgerError: the ledger cannot be reached or written; nothing was recorded.
        """
        now = self._clock()
        given = [
            SourceUpdate(each, update_id=uuid.uuid4().hex, loaded_at=now) if isinstance(each, str) else each
            for each in updates
        ]
        resolved: list[SourceUpdate] = []
        unknown: list[LineageError] = []
        for update in given:
            try:
                resolved += [_renamed(update, source) for source in self._resolve(update.source)]
            except LineageError as error:
                unknown.append(error)
        tick = self.ledger.record_updates(resolved, now=now)
        self.ledger.register_producers([update.source for update in resolved if update.producer])
        if unknown:
            raise type(unknown[0])("; ".join(map(str, unknown)))
        return tick

    def _resolve(self, source: str) -> tuple[str, ...]:
        try:
            return self._current.for_names().resolve_sources(source)
        except LineageError:
            # Perhaps the source is newer than the manifest.
            return self.lineage.resolve_sources(source)

    def without_nodes(self, sources: Iterable[str]) -> tuple[str, ...]:
        """Return those of these sources on which nothing hangs that dbt builds.

        Raises:
            UnknownSourceError: a name is not in the manifest.
        """
        lineage = self._current.for_names()
        return tuple(
            source
            for source in lineage.resolve_sources(*sources)
            if lineage.nodes.keys().isdisjoint(lineage.downstream(source))
        )

    def register_producers(self, sources: Iterable[str]) -> None:
        """Make known that these sources have a producer, before its first load.

        Raises:
            UnknownSourceError: a name is not in the manifest; all others were registered.
        """
        known: list[str] = []
        unknown: list[LineageError] = []
        for source in sources:
            try:
                known += self._declared(source)
            except LineageError as error:
                unknown.append(error)
        self.ledger.register_producers(known)
        if unknown:
            raise type(unknown[0])("; ".join(map(str, unknown)))

    def _declared(self, source: str) -> Iterable[str]:
        """Return every source that a declared name can mean: a template stands for all that it can be filled to."""
        if is_template(source):
            return [each for each in self._current.for_names().sources if can_mean(source, each)]
        return self._resolve(source)

    @cached_property
    def _found(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """The sources of the producers that the setting ``producers`` names, and what to tell people of the rest."""
        if not self.settings.producers:
            return frozenset(), ()
        from lineage_orch.loads.discovery import find_producers

        found = find_producers(self.settings.producers)
        said = [f"Producers in {failure.place} are not known: {failure.why}" for failure in found.failures]
        sources: set[str] = set()
        for source in {source for each in found.producers for source in each.sources}:
            try:
                sources.update(self._declared(source))
            except LineageError as error:
                said.append(f"A producer declares a source that is not in the manifest: {error}")
        return frozenset(sources), tuple(said)

    def _with_found(self, snapshot: LedgerSnapshot) -> LedgerSnapshot:
        """A source has a producer before its first load: what a plan shows is what a build will do."""
        return replace(snapshot, producers=snapshot.producers | self._found[0])

    # Plan -------------------------------------------------------------------------------------------------

    def plan(self) -> BuildPlan:
        """Return what a build would do now; changes nothing.

        Raises:
            PolicyError: the freshness or state config of a node cannot be read.
            ManifestError, DbtError, LedgerError: the manifest or ledger cannot be read.
        """
        lineage = self.lineage
        return self._plan(lineage, self._with_found(self.ledger.snapshot(history_of=_with_history(lineage))))

    def _plan(self, lineage: Lineage, snapshot: LedgerSnapshot, failed: Iterable[str] = ()) -> BuildPlan:
        settings = self.settings
        self._check_history(lineage)
        return plan_builds(
            lineage,
            snapshot,
            now=self._clock(),
            views=settings.views,
            rebuild_changed_code=settings.rebuild_changed_code,
            failed=frozenset(failed),
        )

    def _check_history(self, lineage: Lineage) -> None:
        graph = plan_graph(lineage)
        for number, policy in graph.policies.items():
            if policy.lag_tolerance is not None and policy.lag_tolerance.days >= self.settings.keep_days:
                # Since when data waits is read from the history: cut off before that, it would wait for ever.
                raise PolicyError(
                    f"config.state.lag_tolerance of {graph.ids[number]} is {policy.lag_tolerance.days} days, and the "
                    f"ledger keeps {self.settings.keep_days} days of history; raise keep_days (LINEAGE_ORCH_KEEP_DAYS)"
                )

    # Build ------------------------------------------------------------------------------------------------

    def build(self, *, who: str | None = None, say: Say = lambda _: None) -> BuildReport:
        """Build all that is due, until nothing is.

        Whoever finds the lock taken leaves at once (``report.busy`` says who holds it): the holder plans again
        after each dbt run, and once more after it let go. Nothing that failed is tried again in the same call
        unless new data came for it.

        Args:
            who: how others are told who builds; this process and host are added.
            say: takes a line for people on each step.

        Raises:
            PolicyError: the freshness or state config of a node cannot be read.
            DbtError: dbt could not be run.
            ManifestError, LedgerError: the manifest or ledger cannot be read or written. What was not recorded
                stays owed.
        """
        import socket

        report = BuildReport()
        me = f"{who + ', ' if who else ''}process {os.getpid()} on {socket.gethostname()}"
        tried: dict[str, int] = {}
        sources, said = self._found
        self.ledger.register_producers(sorted(sources))
        for line in said:
            say(line)
        while True:
            with self.ledger.build_lock(who=me) as held:
                if not held:
                    holder = self.ledger.holder()
                    report.busy = f"{holder.who} (since {holder.since:%H:%M:%S} UTC)" if holder else "another process"
                    say(report.summary())
                    return report
                while self._build_once(report, tried, say):
                    held.check()
            # A load that was recorded after the last plan found the lock still taken, and left it to us.
            lineage = self._current.as_read()
            snapshot = self.ledger.snapshot(history_of=_with_history(lineage))
            if self._plan(lineage, snapshot, _not_again(lineage, snapshot, tried)).is_empty:
                return report

    def _build_once(self, report: BuildReport, tried: dict[str, int], say: Say) -> bool:
        """Plan and build once; returns whether to plan again."""
        lineage = self.lineage
        tick, snapshot = self.ledger.begin_build(now=self._clock(), history_of=_with_history(lineage))
        plan = self._plan(lineage, snapshot, _not_again(lineage, snapshot, tried))
        report.held, report.next_due = plan.held, plan.next_due
        failed = {node: each for node, each in plan.held.items() if each.reason in ("failed", "failing")}
        report.blocked = [node for node, each in failed.items() if each.waiting_for]
        report.failing = {node: each.detail or "" for node, each in failed.items() if each.until is not None}
        report.not_built = list(plan.not_built)
        if plan.is_empty:
            return False
        recorder = BuildRecorder(
            self._tests_to_run(plan, plan.build),
            self._recording(lineage, tick),
            passed=self._tests_to_run(plan, plan.passed_through),
            tested_by=lineage.tested_by,
        )
        if plan.select:
            exclude = plan.exclude if self.settings.dbt_command == "build" else ()
            say(shown_command(self.settings, plan.select, exclude))
            report.runs += 1
            if exclude:
                tests = f"{len(exclude)} test{'s' * (len(exclude) != 1)}"
                say(f"Left out for now: {tests} that also read what is held or was never built.")
            outcome = self._dbt.build(plan.select, exclude, recorder.on_result)
            recorder.finish(outcome.results, cut_short=outcome.cut_short)
            for line in recorder.notes:
                say(line)
        report.built += [node for node in recorder.built if node not in report.built]
        for node in recorder.built:
            tried.pop(node, None)
            report.failed.pop(node, None)
        report.failed.update(recorder.failed)
        tried.update(dict.fromkeys(recorder.unbuilt, tick))
        if recorder.ledger_error is not None:
            raise recorder.ledger_error
        return True

    def _tests_to_run(self, plan: BuildPlan, nodes: Iterable[str]) -> Mapping[str, frozenset[str]]:
        if self.settings.dbt_command != "build":
            return dict.fromkeys(nodes, frozenset())
        return {node: plan.tests_on(node) for node in nodes}

    def _recording(self, lineage: Lineage, tick: int) -> Callable[[str], None]:
        def record(node: str) -> None:
            checksum = lineage.nodes[node].checksum
            checksums = {node: checksum} if checksum else {}
            self.ledger.record_built(tick, [node], built_at=self._clock(), checksums=checksums)

        return record

    # Questions --------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return what the ledger knows of each source and node, and what is owed."""
        from lineage_orch.reports.status import status

        lineage = self.lineage
        snapshot = self._with_found(self.ledger.snapshot())
        return status(lineage, snapshot, self._plan(lineage, snapshot), self.ledger.holder())

    def explain(self, node: str) -> Explanation:
        """Say why a node will build, is held or is up to date, along the path from its sources.

        Raises:
            UnknownNodeError: no such node in the manifest.
        """
        from lineage_orch.reports.explain import explain

        lineage = self.lineage
        snapshot = self._with_found(self.ledger.snapshot())
        return explain(lineage, snapshot, self._plan(lineage, snapshot), lineage.resolve_node(node))

    def adopt(self) -> int:
        """Declare the warehouse as it stands as loaded and built; returns the tick of it.

        For a warehouse that was built before lineage_orch came: every source counts as loaded, every node as
        built with its code of now, and nothing is owed.
        """
        lineage = self.lineage
        now = self._clock()
        adoption = f"adopt:{uuid.uuid4().hex}"
        loaded = self.ledger.snapshot(history_of=()).sources
        never = [source for source in lineage.sources if source not in loaded]
        self.ledger.record_updates([SourceUpdate(source, adoption, now) for source in never], now=now)
        tick, _ = self.ledger.begin_build(now=now, history_of=())
        checksums = {node.unique_id: node.checksum for node in lineage.nodes.values() if node.checksum}
        self.ledger.record_built(tick, list(lineage.nodes), built_at=now, checksums=checksums)
        return tick


def _renamed(update: SourceUpdate, source: str) -> SourceUpdate:
    return SourceUpdate(source, update.update_id, update.loaded_at, update.flow_run_id, update.producer)


def _with_history(lineage: Lineage) -> frozenset[str]:
    """What ``lag_tolerance`` needs to know the history of: what the nodes that have it hang on."""
    graph = plan_graph(lineage)
    lagging = [number for number, policy in graph.policies.items() if policy.lag_tolerance is not None]
    above: set[int] = set()
    stack = list(lagging)
    while stack:
        for parent in graph.parents[stack.pop()]:
            if parent not in above:
                above.add(parent)
                stack.append(parent)
    return frozenset(graph.ids[number] for number in above)


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
