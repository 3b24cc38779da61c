"""What a run of ``build_affected`` leaves in Prefect when it has built: events, assets and artifacts.

None of it may fail or hold up a build: what cannot be told is said once in the run's log.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from lineage_orch.deployed.run_artifacts import leave_artifacts
from lineage_orch.deployed.run_events import RunEvents
from lineage_orch.errors import LineageOrchError
from lineage_orch.ledger import LedgerSnapshot, Load
from lineage_orch.loads.completion import Logger
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.reports.account import account, loads_wanted
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.updates import SourceUpdate

# Of each source, so many of the loads that a run took in are told.
_MOST_LOADS = 100


class RunTeller:
    """Tells Prefect what a run did; made before the run records anything.

    Args:
        flow_run_id: the run; None: there is none, and no artifact is left.

    Raises:
        LedgerError: the ledger cannot be read.
    """

    def __init__(
        self, orchestrator: Orchestrator, flow_run_id: UUID | None, logger: Logger, own: Iterable[SourceUpdate] = ()
    ) -> None:
        self._orchestrator = orchestrator
        self._flow_run_id = flow_run_id
        self._logger = logger
        self._since = datetime.now(UTC)
        self._before: LedgerSnapshot = orchestrator.ledger.snapshot(history_of=())
        self._own = frozenset(update.update_id for update in own)
        self._told: list[Load] = []

    def loads(self) -> None:
        """Tell what was loaded, as soon as the ledger has it."""
        try:
            self._told += RunEvents(self._orchestrator, self._logger).loads(self._before, self._own)
        except LineageOrchError as error:  # the build meets it too, and says so
            self._logger.debug("What was loaded is not told: %s", error)

    def build(self, report: BuildReport) -> None:
        """Tell what was built, for which loads."""
        try:
            self._tell(report)
        except LineageOrchError as error:
            self._logger.warning("What this run did is not told to Prefect: %s", error)

    def _tell(self, report: BuildReport) -> None:
        orchestrator, ledger = self._orchestrator, self._orchestrator.ledger
        events = RunEvents(orchestrator, self._logger)
        self._told += events.loads(self._before, self._own)  # those of waiting runs, and those that were lost
        lineage = orchestrator.lineage_as_parsed
        after = ledger.snapshot(history_of=())
        wanted = loads_wanted(lineage, self._before, after, report.built)
        loads = ledger.recent_loads(wanted, limit=_MOST_LOADS)
        below = lineage.downstream(*loads) & lineage.nodes.keys() if loads else frozenset()
        now = datetime.now(UTC)
        done = account(
            lineage,
            self._before,
            after,
            report,
            loads,
            ledger.median_seconds(below),
            since=self._since,
            until=now,
        )
        events.build(done, self._told, models=not orchestrator.tells_assets)
        if self._flow_run_id is not None:
            sources = dict.fromkeys([*(load.source for load in self._told), *loads])
            leave_artifacts(orchestrator, done, sources, self._flow_run_id, now, self._logger)
