"""What a run of ``build_affected`` does beside building when it runs in a deployment.

It takes over the runs that wait with it, finds loads that were lost, and leaves a wake-up for what is held. None of
this may keep it from building: when Prefect's API fails here, it says so and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectException

from lineage_orch.deployed.lateness import telling
from lineage_orch.deployed.launch import launch_build
from lineage_orch.deployed.observe import look
from lineage_orch.deployed.queue import (
    WaitingRun,
    WaitingRuns,
    out_of_date,
    schedule_wake_up,
    to_take_over,
    wake_up_time,
)
from lineage_orch.deployed.reconcile import reconcile
from lineage_orch.deployed.run_history import LoadsOf, running_loads
from lineage_orch.errors import LineageError, TriggerError
from lineage_orch.ledger.others import DEPLOYMENT
from lineage_orch.loads.completion import Logger
from lineage_orch.loads.tags import DEADLINE, sources_in, trigger_tag
from lineage_orch.orchestrator import Orchestrator
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.text import count, one_line

# So long a load's hook may take to hand its updates over before it counts as lost.
HOOK_GRACE = timedelta(minutes=1)
# One run does not go on for ever, however fast loads come: so many dbt runs beyond its own, and a new run does the
# rest. A failure is logged when it ends.
MAX_ROUNDS = 5
# What is due so soon is waited for: Prefect starts a run up to a second early, and clocks differ.
SOON = timedelta(seconds=5)


@dataclass(eq=False, repr=False)
class DeployedBuild:
    """A run of ``build_affected`` in a deployment, from its waiting runs to its wake-up.

    Args:
        settings: the settings among its parameters.
    """

    _client: SyncPrefectClient
    _run: FlowRun
    _deployment_id: UUID
    _settings: Mapping[str, Any] | None
    _logger: Logger
    _name: str | None = None
    _dead: frozenset[str] = frozenset()
    _late: frozenset[str] = frozenset()
    _look_again: datetime | None = None

    def __post_init__(self) -> None:
        self._waiting = WaitingRuns(
            self._client, self._deployment_id, self._run.id, self._settings, self._logger.warning
        )

    def build(self, orchestrator: Orchestrator, *, who: str) -> BuildReport:
        """Build all that is due, for the waiting runs too; raises what ``Orchestrator.build`` does.

        A waiting run is dismissed when the ledger holds its updates and the build has been done, or was left to
        whoever builds already. If the build cannot be run at all, the waiting runs stay, and try again.
        """
        with telling(orchestrator, self._logger, self._watch):
            return self._build(orchestrator, who)

    def _build(self, orchestrator: Orchestrator, who: str) -> BuildReport:
        waiting = self._read()
        wake_ups = [run for run in waiting if run.is_wake_up]
        taken = self._record(orchestrator, to_take_over(waiting, datetime.now(UTC)))
        self._learn(orchestrator)
        orchestrator.loading = lambda: self._being_loaded(orchestrator.settings.patience)
        report = orchestrator.build(who=who, progress=self._logger.info, rounds=MAX_ROUNDS)
        self._dismiss(taken, report)
        for _ in range(MAX_ROUNDS):
            if report.busy or report.more or report.runs > MAX_ROUNDS:
                break
            waited = _wait_for_what_is_nearly_due(report)
            # What has become due meanwhile need not start a process of its own.
            due = to_take_over(self._read(), datetime.now(UTC), started=True)
            taken = self._record(orchestrator, due)
            if not taken and not waited:
                break
            rounds = MAX_ROUNDS - report.runs
            report = _joined(report, orchestrator.build(who=who, progress=self._logger.info, rounds=rounds))
            self._dismiss(taken, report)
        self._wake_up(orchestrator, report, wake_ups)
        set_off_readers(orchestrator, self._logger)
        return report

    @contextmanager
    def _going_on(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, PrefectException) as error:
            self._logger.warning("Prefect's API failed (%s): %s", one_line(error), consequence)

    def _read(self) -> list[WaitingRun]:
        with self._going_on("the waiting runs are left to themselves."):
            return self._waiting.read()
        return []

    def _record(self, orchestrator: Orchestrator, runs: list[WaitingRun]) -> list[WaitingRun]:
        """Record the updates of waiting runs; returns those of which the ledger now holds all."""
        try:
            _record_all(orchestrator, runs)
        except LineageError:
            # Some run names a source that the manifest lacks. It is left to itself, to fail and say so to its load.
            recorded = []
            for run in runs:
                try:
                    _record_all(orchestrator, [run])
                except LineageError as error:
                    self._logger.warning("The waiting run %r is left to itself: %s", run.name, error)
                else:
                    recorded.append(run)
            runs = recorded
        if runs:
            sources = sorted({update.source for run in runs for update in run.updates})
            self._logger.info(
                "Taking over %s%s.",
                count(runs, "waiting run"),
                f" ({', '.join(sources)})" if sources else "",
            )
        if any(run.observe for run in runs):
            look(orchestrator, self._logger)
        return runs

    def _dismiss(self, runs: list[WaitingRun], report: BuildReport) -> None:
        if not runs:
            return
        builder = f"flow run {self._run.name!r} ({self._run.id})"
        message = f"Its updates were recorded and its build was done by {builder}."
        if report.busy:
            message = f"Its updates were recorded by {builder}; the build is done by {report.busy}."
        elif report.failed:
            message = f"Its updates were recorded by {builder}; some of its build failed there and is still stale."
        with self._going_on("the waiting runs start by themselves, and find their work done."):
            self._waiting.dismiss(runs, message)

    def _learn(self, orchestrator: Orchestrator) -> None:
        """Learn from Prefect which loads there are, and which of them completed and were not reported."""
        with self._going_on("loads whose hook was lost are looked for by the next run."):
            deployment = self._client.read_deployment(self._deployment_id)
            flow = self._client.read_flow(deployment.flow_id)
            name = f"{flow.name}/{deployment.name}"
            found = reconcile(orchestrator, deployment=name, grace=HOOK_GRACE, client=self._client)
            self._name, self._dead = name, frozenset(run.run_id for run in found.dead)
            self._late, self._look_again = found.late, found.look_again
            if orchestrator.ledger.mark(DEPLOYMENT) != name:  # for the projects whose tables are read here
                orchestrator.ledger.set_mark(DEPLOYMENT, name)
            for line in found.lines():
                self._logger.warning("%s", line)
            loads = self._client.read_deployments(
                deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[trigger_tag(name)]))
            )
            try:
                orchestrator.register_producers({source for load in loads for source in sources_in(load.tags)})
            except LineageError as error:
                self._logger.warning("A load's deployment names a source that is not in the manifest: %s", error)

    def _being_loaded(self, patience: float) -> list[str]:
        """Return the sources whose loads are running, or come within the patience; none where that is not known."""
        now = datetime.now(UTC)
        with self._going_on("it is not known which loads are running, and none is waited for."):
            if self._name is not None:
                until = now + timedelta(seconds=patience)
                return running_loads(self._client, LoadsOf(self._name), until, now, dead=self._dead)
        return []

    def _wake_up(self, orchestrator: Orchestrator, report: BuildReport, wake_ups: list[WaitingRun]) -> None:
        # Whoever builds now may be no deployment, and leave no wake-up.
        plan = orchestrator.plan() if report.busy else report
        useless = [] if report.busy else out_of_date(wake_ups, datetime.now(UTC), report.next_due)
        if useless := [run for run in useless if run.due != self._look_again]:
            with self._going_on("wake-ups that are not needed any more will find nothing to do."):
                self._waiting.dismiss(useless, f"What it was to build, flow run {self._run.name!r} has built.")
        if report.more:
            self._schedule(datetime.now(UTC), "More was loaded meanwhile.", "build what was loaded meanwhile, from")
        elif plan.next_due is not None:
            due = wake_up_time(plan.held.values(), plan.next_due, timedelta(seconds=orchestrator.settings.debounce))
            self._schedule(due, "Held nodes are due.", "build what is held until")
        if self._look_again is not None and not self._are_reported(orchestrator):
            self._schedule(self._look_again, "A load is not reported.", "look for a load that is not reported yet, at")

    def _are_reported(self, orchestrator: Orchestrator) -> bool:
        """Whether the hooks that were at work when this run began have set off runs of their own meanwhile."""
        reported = {update.update_id for run in self._read() for update in run.updates}
        return self._late <= reported | orchestrator.ledger.known_updates(self._late)

    def _watch(self, deadline: datetime) -> None:
        """See to it that a run looks just after a deadline, if none does before it anyway, and leaves the next one."""
        due = deadline + SOON
        if not any(run.due <= due for run in self._read()):
            self._schedule(due, "Something may be late.", "look whether anything is late, at", DEADLINE)

    def _schedule(self, due: datetime, why: str, what: str, *tags: str) -> None:
        with self._going_on(
            "no wake-up was scheduled; what is left waits for the next load, or `lineage-orch reconcile`."
        ):
            run = schedule_wake_up(
                self._client, self._deployment_id, due, settings=self._settings, run_id=self._run.id, why=why, tags=tags
            )
            self._logger.info("Run %r will %s %s UTC.", run.name, what, f"{due:%Y-%m-%d %H:%M:%S}")


def set_off_readers(orchestrator: Orchestrator, logger: Logger) -> None:
    """Launch the deployments of other projects that have not taken in yet what was built here; raises LedgerError."""
    for each in orchestrator.ledger.read_elsewhere():
        if each.deployment is None:
            continue
        try:
            launch_build(each.deployment, logger)
        except TriggerError as error:
            why = one_line(error).rstrip(".")
            logger.warning(
                "%s reads what was built here, and was not set off: %s. Its next run takes it in.", each.scope, why
            )


def _wait_for_what_is_nearly_due(report: BuildReport) -> bool:
    """Sleep until what is held for a few seconds more is due; returns whether there was anything."""
    now = datetime.now(UTC)
    if report.next_due is None or report.next_due > now + SOON:
        return False
    until = wake_up_time(report.held.values(), report.next_due, now + SOON - report.next_due)
    time.sleep(max(0.0, (until - now).total_seconds()))
    return True


def _record_all(orchestrator: Orchestrator, runs: list[WaitingRun]) -> None:
    orchestrator.record([update for run in runs for update in run.updates])
    orchestrator.register_producers({source for run in runs for source in run.producers})


def _joined(first: BuildReport, then: BuildReport) -> BuildReport:
    """Return one report of two builds, one after the other."""
    built = [*first.built, *(node for node in then.built if node not in first.built)]
    failed = {name: why for name, why in first.failed.items() if name in then.failed or name not in then.built}
    failed |= then.failed
    return replace(
        then,
        built=built,
        failed=failed,
        partial={node: each for node, each in first.partial.items() if node not in then.built} | then.partial,
        unreported=[*(node for node in first.unreported if node not in then.built), *then.unreported],
        unplanned=[*first.unplanned, *then.unplanned],
        followed=sorted({*first.followed, *then.followed}),
        # What failed waits: the second build has not tried it again, unless someone asked for that.
        follow_failed={name: why for name, why in first.follow_failed.items() if name not in then.followed}
        | then.follow_failed,
        runs=first.runs + then.runs,
        seconds=first.seconds + then.seconds,
        expected=first.expected + then.expected,
    )
