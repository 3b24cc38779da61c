"""One run of dbt: what a plan says is built, and each node is recorded as its end is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple

from lineage_orch.builds.by_hand import HandBuild
from lineage_orch.builds.workspace import Workspace
from lineage_orch.dbt.command import shown_command
from lineage_orch.dbt.engine import BUILT, FAILED, PASSED, Outcome, Result
from lineage_orch.dbt.microbatch import event_times, span_flags
from lineage_orch.dbt.recorder import BuildRecorder
from lineage_orch.dbt.retries import Retries
from lineage_orch.followers.starts import Starts
from lineage_orch.ledger import Extent, LedgerSnapshot
from lineage_orch.ledger.lock import BuildLock
from lineage_orch.ledger.snapshot import OPEN
from lineage_orch.lineage import Lineage
from lineage_orch.plan import BuildPlan, Estimate, failure_identity, plan_graph
from lineage_orch.reports.build_report import BuildReport, last_name
from lineage_orch.text import count, few

Progress = Callable[[str], Any]


class NodeEnd(NamedTuple):
    """How a node of a build ended, or a test on one that failed, told as it happens.

    Attributes:
        result: what dbt says of it now; its last word, at the end of the run, may be another.
        number: how many of the nodes that this run of dbt builds have ended by now.
        of: how many it builds.
        seconds: how long all of it takes, by how long its nodes took before; None: not known.
    """

    result: Result
    number: int
    of: int
    seconds: float | None


OnNode = Callable[[NodeEnd], Any]


@dataclass(eq=False)
class DbtRun:
    """One run of dbt under the build lock.

    Attributes:
        lineage: the project as it is when the run begins; dbt writes its manifest anew.
        snapshot: the ledger at the tick of the run.
        missing: the nodes whose relation is not in the warehouse.
        retries: which nodes of this call are tried again.
        on_node: told of each node's end, in dbt's threads, one at a time.
    """

    workspace: Workspace
    lineage: Lineage
    snapshot: LedgerSnapshot
    plan: BuildPlan
    _: KW_ONLY
    missing: Collection[str]
    held: BuildLock
    retries: Retries
    by_hand: HandBuild | None
    starts: Starts
    progress: Progress
    on_node: OnNode

    def __post_init__(self) -> None:
        workspace, lineage, plan, by_hand = self.workspace, self.lineage, self.plan, self.by_hand
        self._ledger = workspace.ledger
        self._tick = self.snapshot.tick
        self._nodes = frozenset(plan.build)
        self._ended: set[str] = set()
        self._telling = Lock()
        self._expected: Estimate | None = None
        # Before dbt runs, which writes the manifest anew: it is read again for them.
        self._identities = {node: lineage.identity_parts(node) for node in (*plan.build, *plan.passed_through)}
        # What was tried before in this call may be there by now, with some of its batches.
        self._gone = frozenset(self.missing) - self.retries.begun
        self._extents = plan.extents
        if by_hand and by_hand.window:
            # So do what reads these nodes find out which batches were made anew.
            given = Extent(by_hand.window, is_open=True)
            self._extents = {node: plan.extents.get(node, OPEN) | given for node in self._identities}
        self._in_part = (
            by_hand.in_part(lineage, plan.build, self.snapshot.nodes, self._gone, workspace.clock(), plan.extents)
            if by_hand
            else frozenset()
        )
        self.recorder = BuildRecorder(
            workspace.tests_to_run(plan, plan.build),
            self._record,
            self._take_back,
            passed=workspace.tests_to_run(plan, (*plan.tests_only, *plan.passed_through)),
            tested_by=lineage.tested_by,
            check=self.held.check_now_and_then,
            record_failed=self._record_failed,
            retries=self.retries,
        )

    def _record(self, node: str) -> None:
        if node in self.plan.tests_only:
            self._ledger.record_tested(self._tick, [node])
        else:
            self._record_built(node)
        self.starts.recorded(node)

    def _record_built(self, node: str) -> None:
        self._ledger.record_built(
            self._tick,
            [node] if node not in self._in_part else [],
            built_at=self.workspace.clock(),
            identities={node: self._identities[node]},
            seconds={} if node in self.plan.passed_through else self.recorder.seconds_of(node),
            extents=self._extents,
        )

    def _take_back(self, node: str) -> None:
        self._ledger.take_back(self._tick, [node])
        self.starts.taken_back(node)

    def _record_failed(self, failed: Mapping[str, str]) -> None:
        self._ledger.record_failed(
            self._tick,
            {node: why for node, why in failed.items() if node not in self._in_part},
            failed_at=self.workspace.clock(),
            identities={node: failure_identity(self.lineage, node) for node in failed},
        )

    def execute(self, report: BuildReport) -> None:
        """Have dbt build what the plan selects; the report learns of it, and the ledger.

        Raises:
            DbtError: dbt could not be run.
        """
        plan, settings = self.plan, self.workspace.settings
        exclude = plan.exclude if settings.dbt_command == "build" else ()
        times = self._event_times()
        self.progress(shown_command(settings, plan.select, exclude, times))
        report.runs += 1
        self._expected = expected = self.workspace.estimate(self.lineage, plan)
        begun = monotonic()
        self._begin_nodes()
        if exclude:
            self.progress(
                f"Left out for now: {count(len(exclude), 'test')} that also read what is held or was never built."
            )
        # Only where there are any: an engine of a user's own may know no flags.
        outcome = self.workspace.dbt.build(plan.select, exclude, self._hear, *([times] if times else []))
        if expected is not None:
            report.took(monotonic() - begun, expected)
        self._finish(outcome, report)

    def _hear(self, result: Result) -> None:
        self.recorder.on_result(result)
        with self._telling:
            self._ended |= {result.unique_id} & self._nodes
            if result.unique_id in self._nodes or result.status in FAILED:
                seconds = self._expected.seconds if self._expected is not None else None
                self.on_node(NodeEnd(result, len(self._ended), len(self._nodes), seconds))

    def _event_times(self) -> tuple[str, ...]:
        flags = self.workspace.settings.dbt_flags
        by_hand, plan = self.by_hand.flags if self.by_hand else (), self.plan
        if plan.window is not None:
            return span_flags(*plan.window)
        facts, now = self.snapshot.nodes, self.workspace.clock()
        times = event_times(self.lineage, plan.build, facts, self._gone, now, (*by_hand, *flags), extents=plan.extents)
        return (*by_hand, *times)

    def _begin_nodes(self) -> None:
        """Note what is spoilt by a build that fails, or is killed."""
        build, facts = self.plan.build, self.snapshot.nodes
        # New data alone leaves a node stale until it is built well, and what was never built is stale anyway.
        # And a build that fails may spoil what is there and was to be tested.
        doubtful = self.plan.changed_code | (facts.keys() & self.missing) | self.snapshot.untested.keys()
        if self.by_hand:
            doubtful |= (self.by_hand.nodes if self.by_hand.force else frozenset()) - self._in_part
            self._ask_for_readers()
            if self._in_part:
                self.progress(
                    f"Not all batches that are due are built now: {few(sorted(self._in_part))} is no less stale."
                )
        self.retries.begun.update(build)
        self._ledger.begin_nodes(self._tick, [node for node in build if node in doubtful])
        self._ledger.forget_contents(node for node in build if node in facts and facts[node].content)

    def _ask_for_readers(self) -> None:
        """Ask for what reads models that are built in part: that is no good build of theirs, which would say so."""
        graph = plan_graph(self.lineage)
        for node in self._in_part:
            below = [graph.ids[number] for number in graph.children[graph.index[node]]]
            self._ledger.ask_for(
                [each for each in below if each not in self.plan.build],
                reason=f"batches of {node} were built",
                window=self.by_hand.window if self.by_hand else None,
            )

    def _finish(self, outcome: Outcome, report: BuildReport) -> None:
        """Hold what was heard of the nodes against dbt's final results."""
        self.recorder.finish(outcome.results, cut_short=outcome.cut_short)
        if self.recorder.ledger_error is None:
            self._note_untested()
        for line in self.recorder.notes:
            self.progress(line)
        good = {each.unique_id for each in outcome.results if each.status in BUILT | PASSED}
        report.failed = {each: why for each, why in report.failed.items() if each not in good}
        report.partial.update(
            {each.unique_id: list(each.failed_batches) for each in outcome.results if each.failed_batches}
        )

    def _note_untested(self) -> None:
        """Note what needs no build any more, only its tests; and what was only tested and needs a build after all."""
        recorder, whole = self.recorder, self._identities.keys() - self._in_part
        self._ledger.record_untested(
            self._tick,
            [node for node in recorder.untested if node in whole],
            built_at=self.workspace.clock(),
            identities={node: self._identities[node] for node in recorder.untested if node in whole},
            extents=self._extents,
        )
        self._ledger.begin_nodes(self._tick, [node for node in recorder.untestable if node not in whole])

    def compare(self, report: BuildReport) -> None:
        """Record what was built well and came out as it was; until then it counts as changed.

        Nothing else can have built it since: the lock is held, and what reads it waits for the next plan, if it reads
        it for this alone.
        """
        plan, facts = self.plan, self.snapshot.nodes
        compared = {node: plan.compared[node] for node in self.recorder.built if node in plan.compared}
        contents = self.workspace.dbt.contents(self.lineage, compared) if compared else {}
        if contents:
            self.held.check()
            same = [node for node in contents if node in plan.maybe_same and contents[node] == facts[node].content]
            self._ledger.record_contents(self._tick, contents, unchanged=same)
            report.unchanged += [node for node in same if node not in report.unchanged]
            if same:
                self.progress(f"Came out as before: {few(map(last_name, same))}.")
