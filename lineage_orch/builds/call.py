"""One call that builds: plan, run dbt, and plan again, until there is nothing left that this call is to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lineage_orch.builds.bounds import Bound
from lineage_orch.builds.by_hand import HandBuild, Limits
from lineage_orch.builds.run import DbtRun, OnNode
from lineage_orch.builds.workspace import Workspace, resolved
from lineage_orch.dbt.retries import Retries
from lineage_orch.errors import DbtError
from lineage_orch.followers.starts import Start, Starts
from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.ledger.lock import BuildLock
from lineage_orch.lineage import Lineage
from lineage_orch.plan import BuildPlan, below, history_of, longest_lag, not_again
from lineage_orch.plan.windows import extents_asked
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.reports.status import short_names
from lineage_orch.text import few

if TYPE_CHECKING:
    from lineage_orch.followers.runs import FollowerRuns

# After so many dbt runs a call builds the rest at once: where loads that change nothing come all the time, what waits
# to see whether they do would wait again and again.
_STAGES = 20


class BuildCall:
    """What one call of ``Orchestrator.build`` tried, and how it goes on.

    Args:
        report: learns what the call does.
        on_node: told of each node's end, in dbt's threads, one at a time.
    """

    def __init__(
        self,
        workspace: Workspace,
        report: BuildReport,
        progress: Callable[[str], Any],
        bound: Bound,
        by_hand: HandBuild | None = None,
        on_node: OnNode = lambda _: None,
    ) -> None:
        self._workspace = workspace
        self._ledger = workspace.ledger
        self._report = report
        self._progress = progress
        self._bound = bound
        self._by_hand = by_hand
        self._on_node = on_node
        # The nodes that were tried and are not built well, each with the tick of the run that tried it.
        self._tried: dict[str, int] = {}
        # The relations that are gone; None as long as nothing asked.
        self._missing: frozenset[str] | None = None
        self._followers: FollowerRuns | None = None
        # The followers that ran when the ledger was read.
        self._running: frozenset[str] = frozenset()
        settings = workspace.settings
        self._retries = Retries(
            settings.node_retries,
            timedelta(seconds=settings.node_retry_delay),
            settings.retry_on,
            progress=progress,
        )

    def drain(self, held: BuildLock) -> None:
        """Plan and build until nothing is due, or the call has built as much as it is to.

        Raises:
            DbtError: dbt could not be run.
            LineageError: the projects of the ledger go round in a circle.
            ManifestError, LedgerError: the manifest or ledger cannot be read or written, or the lock was lost.
        """
        self._missing = None
        self._workspace.dbt.end_left()
        while self._build_once(held):
            held.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait for the followers that run in this process; after Ctrl-C for nothing."""
        if kind is None or issubclass(kind, Exception):
            self._join()

    def has_more(self) -> bool:
        """Whether something is due by now that this call did not try; what follows in this process has then run."""
        self._join()
        lineage = self._workspace.current.as_read()
        snapshot = self._workspace.snapshot(lineage)
        again = not_again(lineage, snapshot, self._tried)
        plan = self._workspace.plan(lineage, snapshot, again, running=self._going_on)
        if self._followers is not None:
            self._report.next_due = plan.next_due
            if plan.is_empty and (spent := self._followers.spent):
                due = self._workspace.plan(lineage, snapshot, again, running=self._going_on - spent).follow
                self._report.more = list(due)
        return not plan.is_empty

    def _build_once(self, held: BuildLock) -> bool:
        """Plan and build once; returns whether to plan again."""
        lineage, snapshot = self._begin()
        plan = self._plan(lineage, snapshot)
        self._tell(plan)
        if plan.is_empty:
            return self._missing is None and self._is_gone_at_end(lineage, snapshot)
        starts = self._starts(lineage, snapshot, plan)
        starts.begin()
        if plan.needs_no_dbt:
            return True
        missing = self._missing or frozenset()
        if not self._bound.lets(snapshot, lambda then: self._workspace.plan(lineage, then, self._tried, missing)):
            self._report.more = [*plan.build, *plan.tests_only, *plan.passed_through]
            return False
        run = DbtRun(
            self._workspace,
            lineage,
            snapshot,
            plan,
            missing=missing,
            held=held,
            retries=self._retries,
            by_hand=self._by_hand,
            starts=starts,
            progress=self._progress,
            on_node=self._on_node,
        )
        if plan.select:
            try:
                run.execute(self._report)
            except DbtError as error:
                if not self._retries.after(error):
                    raise
                self._take_built(run.recorder.built)
                return True
        self._take(run, plan, snapshot.tick)
        run.compare(self._report)
        if retried := run.recorder.retried:
            self._report.retried |= {node: self._retries.retried[node] for node in retried}
            self._retries.wait(retried)
        return True

    # Before dbt runs --------------------------------------------------------------------------------------

    def _begin(self) -> tuple[Lineage, LedgerSnapshot]:
        """Return the project as it is now, and the ledger at the tick of this run."""
        workspace = self._workspace
        lineage = workspace.lineage
        self._name_all(lineage)
        workspace.take_in(lineage)
        workspace.ask_loading(lineage)
        if followers := workspace.followers(lineage):
            self._look_at_followers()
        # Before the ledger is read: what ends after that is still running for this plan, and not started anew.
        self._running = self._going_on
        _, snapshot = self._ledger.begin_build(
            now=workspace.clock(),
            history_of=history_of(lineage, workspace.being_loaded, followers),
            extents_of=extents_asked(lineage, followers),
            keep=longest_lag(lineage, followers),
        )
        self._take_identities(lineage, snapshot)
        return lineage, workspace.seen_with(lineage, snapshot)

    def _name_all(self, lineage: Lineage) -> None:
        """Give updates that were kept as named to the sources that this manifest knows by these names."""
        unresolved = self._ledger.snapshot(history_of=()).unresolved
        if known := resolved(lineage, unresolved):
            self._ledger.resolve_names(known)
        if unknown := sorted(unresolved.keys() - known.keys()):
            self._progress(
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
            self._ledger.take_identities(unknown)

    def _plan(self, lineage: Lineage, snapshot: LedgerSnapshot) -> BuildPlan:
        workspace, by_hand = self._workspace, self._by_hand
        if self._missing is None and workspace.dbt.has_callbacks:
            self._missing = workspace.missing_relations(lineage, snapshot)
        limits = (
            by_hand.to_plan(lineage, workspace.settings.views, self._report.built, self._tried) if by_hand else Limits()
        )
        again = not_again(lineage, snapshot, self._tried)
        # What is built by hand is built at once, and counts as changed.
        compares = not by_hand and self._report.runs < _STAGES
        given = bool(by_hand and by_hand.flags)
        plan = workspace.plan(
            lineage, snapshot, again, self._missing or (), *limits, compares, given, running=self._running
        )
        batches = (node for node in plan.build if node in snapshot.nodes and lineage.microbatch(node))
        if self._missing is None and (plan.tests_only or any(batches)):
            # What is gone cannot be tested, and dbt is told since when to build batches of what is there.
            self._missing = workspace.missing_relations(lineage, snapshot)
            plan = workspace.plan(
                lineage, snapshot, again, self._missing, *limits, compares, given, running=self._running
            )
        return plan

    def _tell(self, plan: BuildPlan) -> None:
        """Tell the report what a plan says, and people what it notes, once."""
        report = self._report
        report.take_plan(plan)
        if not report.runs:
            for line in plan.notes:
                self._progress(line)
        report.held, report.next_due, report.not_built = plan.held, plan.next_due, list(plan.not_built)
        waits = {node: each for node, each in plan.held.items() if each.reason in ("failed", "failing")}
        report.blocked = [node for node, each in waits.items() if each.waiting_for]
        report.failing = {
            node: each.detail or "failed"
            for node, each in waits.items()
            if each.reason == "failing" and not each.waiting_for and node not in self._tried
        }

    def _is_gone_at_end(self, lineage: Lineage, snapshot: LedgerSnapshot) -> bool:
        """Ask which relations are gone, when all else is built; returns whether there is something to build for it.

        So it is asked where a question to dbt is a process of its own: no load waits for it. What failed in this call
        below such a relation failed for want of it, and may be tried again.
        """
        if snapshot.nodes.keys() & lineage.nodes.keys() <= set(self._report.built):
            self._missing = frozenset()
            return False
        self._missing = self._workspace.missing_relations(lineage, snapshot)
        gone = (self._missing & snapshot.nodes.keys()) - self._tried.keys()
        again = sorted(self._tried.keys() & set(below(lineage, gone)))
        self._ledger.clear_failures(again)
        for node in again:
            del self._tried[node]
        return bool(gone)

    # What follows ----------------------------------------------------------------------------------------

    def _look_at_followers(self) -> None:
        """See what became of followers that were launched before; the build lock is held."""
        if self._followers is None:
            from lineage_orch.followers.runs import FollowerRuns

            workspace = self._workspace
            self._followers = FollowerRuns(
                self._ledger, workspace.flow_of, clock=workspace.clock, progress=self._progress
            )
        self._followers.look()

    @property
    def _going_on(self) -> frozenset[str]:
        return self._followers.going_on if self._followers is not None else frozenset()

    def _starts(self, lineage: Lineage, snapshot: LedgerSnapshot, plan: BuildPlan) -> Starts:
        """Return what starts the due followers of a plan, each as soon as what it follows is recorded."""

        def start(unique_id: str) -> None:
            assert self._followers is not None
            assert snapshot.run_id is not None
            names = short_names(lineage)
            sources = tuple(sorted(names[each] for each in plan.because[unique_id]))
            follower, window = plan.followers[unique_id], plan.window_of(unique_id)
            self._followers.start(Start(follower, snapshot.tick, snapshot.run_id, sources, window))

        return Starts(plan, start)

    def _join(self) -> None:
        if self._followers is not None:
            self._followers.join()
            self._report.followed = sorted(self._followers.started)
            self._report.follow_failed = dict(self._followers.failed)

    # After dbt ran ----------------------------------------------------------------------------------------

    def _take(self, run: DbtRun, plan: BuildPlan, tick: int) -> None:
        """Take what became of a run.

        Raises:
            LedgerError: it could not be recorded.
        """
        report, recorder = self._report, run.recorder
        self._take_built(recorder.built, recorder.untested)
        report.tested += [node for node in recorder.passed if node in plan.tests_only]
        for node in (*recorder.built, *recorder.passed):
            self._tried.pop(node, None)
            report.partial.pop(node, None)
        report.failed.update(recorder.failed)
        report.unreported += [each for each in recorder.unreported if each in plan.build]
        report.unplanned += recorder.unplanned
        self._tried.update(dict.fromkeys(recorder.done_with, tick))
        if recorder.ledger_error is not None:
            raise recorder.ledger_error

    def _take_built(self, built: list[str], untested: list[str] | None = None) -> None:
        self._report.built += [node for node in built if node not in self._report.built]
        self._missing = self._missing and self._missing.difference(built, untested or ())
