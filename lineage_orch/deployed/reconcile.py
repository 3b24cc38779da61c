"""Loads that completed and are not in the ledger: found in Prefect's own run history.

A load may be killed between its Completed state and its completion hook, or Prefect's API may fail it there. Its
run, of a flow or of a task, is in the history, tagged with its sources.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectException

from lineage_orch.builds.workspace import resolved
from lineage_orch.deployed.launch import launch_build
from lineage_orch.deployed.run_history import CompletedLoad, DeadRun, LoadsOf, completed_loads, dead_runs
from lineage_orch.errors import DbtError, LineageError, ManifestError, TriggerError
from lineage_orch.reports.as_json import picked
from lineage_orch.text import count, few, one_line
from lineage_orch.updates import SourceUpdate

if TYPE_CHECKING:
    from lineage_orch.orchestrator import Orchestrator

# The watermark in the ledger: until when (ISO, UTC) the history was read, for the loads that set off one deployment.
# Each has its own: else a look for the loads of one would pass over those of another.
WATERMARK = "lineage_orch.reconciled_until:{}"
# The mark in the ledger with the loads that ran where no dbt project was found, and whose sources the manifest does not
# know yet: a JSON list of updates, the newest so many.
UNCLAIMED = "lineage_orch.unclaimed_loads"
_MOST_UNCLAIMED = 1000
# Read again each time: clocks differ, and a state may reach the server late.
OVERLAP = timedelta(minutes=10)
# How far back to look when there is no watermark yet.
FIRST_LOOK = timedelta(days=1)
# Longer than a hook takes that meets no trouble, and than the clocks of a load and of who looks are apart.
USUAL = timedelta(seconds=5)
# So many lost loads are named one by one.
_TOLD = 10


@dataclass(frozen=True)
class LostLoad:
    """A completed load that was not reported to the ledger; its update is recorded now."""

    run_id: str
    run_name: str
    completed_at: datetime
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Reconciliation:
    """What the history told.

    Attributes:
        since: from when it was read (UTC).
        until: until when.
        found: the loads that were lost.
        dead: the runs that are RUNNING by name only.
        unknown: what to tell people of loads that were not taken, if any.
        late: the ids of the states of loads that completed within the grace and are not reported yet.
        look_again: when to look for these again.
    """

    since: datetime
    until: datetime
    found: tuple[LostLoad, ...] = ()
    dead: tuple[DeadRun, ...] = ()
    unknown: str | None = None
    late: frozenset[str] = frozenset()
    look_again: datetime | None = None

    def lines(self) -> list[str]:
        """Return what to tell people, one line each; empty if all was in order."""
        lines = [
            f"The load {load.run_name!r} completed at {load.completed_at:%Y-%m-%d %H:%M:%S} UTC and was not "
            f"reported: {', '.join(load.sources)} recorded as loaded."
            for load in self.found[:_TOLD]
        ]
        if rest := self.found[_TOLD:]:
            sources = sorted({source for load in rest for source in load.sources})
            lines.append(f"So were {len(rest)} more: {', '.join(sources)} recorded as loaded.")
        if self.unknown:
            lines.append(self.unknown)
        lines += [
            f"The run {run.run_name!r} is RUNNING by name, and its last sign of life was at "
            f"{run.last_heartbeat:%Y-%m-%d %H:%M:%S} UTC: its process is gone. "
            f"End it (the server takes some minutes over it) with: {run.hint}"
            for run in self.dead
        ]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            **picked(self, "since", "until", "found", "unknown", "look_again"),
            "dead": [picked(run, "run_id", "run_name", "last_heartbeat", "hint") for run in self.dead],
        }


def reconcile(
    orchestrator: Orchestrator,
    *,
    deployment: str | None = None,
    grace: timedelta = timedelta(0),
    client: SyncPrefectClient | None = None,
) -> Reconciliation:
    """Find loads that completed and that the ledger does not know, since the last look, and record them.

    A lost load counts for the sources among its tags. Those of a flow are all that it declares: what it marked with
    ``mark_updated`` died with it; those of a task are what it marked. A load whose hook did run is known by its
    update's id, and one that found nothing new by a tag. A source that the manifest does not know yet is recorded as
    it was named. Nothing is built.

    Of the loads that build in their own process, those whose tags name this dbt project are taken; and of those that
    name no project (it was not found where they ran, or they are of release 0.1.0) the ones that load a source of it.
    The others of these are kept in the ledger, and taken up once the manifest knows their source.

    Args:
        deployment: ``flow/name``: only loads that set this off. Default: the setting; without one, the loads that
            build in their own process.
        grace: leave out what completed within this time: its hook may still be at work. The result says when to look
            again.

    Returns:
        What was found, and which runs are RUNNING by name only.

    Raises:
        LedgerError: the ledger cannot be reached or written.
        httpx.HTTPError: Prefect's API cannot be reached, or failed.
    """
    deployment = deployment or orchestrator.settings.deployment
    looks = [_Look(orchestrator, LoadsOf(deployment), grace)]
    if deployment is None:
        looks.insert(0, _Look(orchestrator, LoadsOf(None, orchestrator.project.name), grace))
    now = datetime.now(UTC)
    with nullcontext(client) if client is not None else get_client(sync_client=True) as api:
        for look in looks:
            look.read(api, now)
        dead = tuple(dead_runs(api, [look.trigger for look in looks], now))
    late = {state_id: when for look in looks for state_id, when in look.late.items()}
    lost = [
        LostLoad(load.run_id, load.run_name, load.completed_at, load.sources) for look in looks for load in look.lost
    ]
    lost += [
        LostLoad(each.flow_run_id or each.update_id, each.producer or "a load", each.loaded_at, (each.source,))
        for look in looks
        for each in look.taken_up
    ]
    return Reconciliation(
        min(look.since for look in looks),
        now - grace,
        tuple(sorted(lost, key=lambda load: load.completed_at)),
        dead,
        " ".join(look.refused for look in looks if look.refused) or None,
        frozenset(late),
        max(late.values()) + grace + USUAL if late else None,
    )


class _Look:
    """One look at the history, for the loads of one trigger."""

    def __init__(self, orchestrator: Orchestrator, trigger: LoadsOf, grace: timedelta) -> None:
        self.trigger = trigger
        self.since = datetime.max.replace(tzinfo=UTC)
        self.lost: list[CompletedLoad] = []
        self.taken_up: list[SourceUpdate] = []
        self.late: dict[str, datetime] = {}
        self.refused = ""
        self._orchestrator = orchestrator
        self._grace = grace

    def read(self, client: SyncPrefectClient, now: datetime) -> None:
        """Record what is new since the last look, up to ``now`` less the grace."""
        ledger = self._orchestrator.ledger
        until = now - self._grace
        watermark = WATERMARK.format(self.trigger.tag())
        known_until = ledger.mark(watermark)
        self.since = (datetime.fromisoformat(known_until) - OVERLAP) if known_until else now - FIRST_LOOK
        unreported = _unknown_to(self._orchestrator, completed_loads(client, self.trigger, self.since, now))
        self.lost = [load for load in unreported if load.completed_at <= until]
        self.late = {
            load.state_id: load.completed_at for load in unreported if until < load.completed_at <= now - USUAL
        }
        unclaimed: str | None = None
        if self.trigger == LoadsOf(None):
            unclaimed = self._keep_own(client, now)
            if unclaimed is None:
                return
        updates = [update for load in self.lost for update in load.updates(client)]
        try:
            self._orchestrator.record([*self.taken_up, *updates])
        except LineageError as error:
            self.refused = (
                f"A load in Prefect's history names a source that the manifest does not know, and is kept as it names "
                f"it: {error}"
            )
        if known_until is None or until > datetime.fromisoformat(known_until):
            ledger.set_mark(watermark, until.isoformat())
        if unclaimed is not None and unclaimed != (ledger.mark(UNCLAIMED) or "[]"):
            ledger.set_mark(UNCLAIMED, unclaimed)

    def _keep_own(self, client: SyncPrefectClient, now: datetime) -> str | None:
        """Keep the loads of a source of this dbt project; returns the others, or None if that cannot be said now."""
        ledger = self._orchestrator.ledger
        kept = ledger.mark(UNCLAIMED) or "[]"
        waiting = [SourceUpdate.from_dict(each) for each in json.loads(kept)]
        found, self.lost = self.lost, []
        if not found and not waiting:
            return kept
        try:
            lineage = self._orchestrator.lineage
        except (DbtError, ManifestError) as error:
            if not found:
                return kept
            self.refused = (
                f"{count(found, 'load')} in Prefect's history ({few(load.run_name for load in found)}) may be of this "
                f"dbt project, and that cannot be said while its manifest cannot be read: {one_line(error)}"
            )
            return None
        named = [source for load in found for source in load.sources]
        known = resolved(lineage, [*named, *(update.source for update in waiting)])
        self.lost = [load for load in found if not known.keys().isdisjoint(load.sources)]
        others = [load for load in found if load not in self.lost]
        if others:
            self.refused = (
                f"{count(others, 'load')} in Prefect's history ({few(load.run_name for load in others)}) ran where no "
                "dbt project was found, and no source of this project is among what was loaded: "
                f"{few(sorted({source for load in others for source in load.sources}))}. They are kept for when it is."
            )
        self.taken_up = [update for update in waiting if update.source in known]
        since = now - timedelta(days=ledger.keep_days)
        rest = {
            (update.update_id, update.source): update
            for update in (*waiting, *(update for load in others for update in load.updates(client)))
            if update not in self.taken_up and update.loaded_at > since
        }
        return json.dumps([update.to_dict() for update in list(rest.values())[-_MOST_UNCLAIMED:]])


def reconcile_and_build(
    orchestrator: Orchestrator, *, deployment: str | None = None, progress: Callable[[str], Any]
) -> Reconciliation:
    """What ``lineage-orch reconcile`` does: find lost loads, and see to it that all that is stale gets built.

    With a deployment, a run of it is launched; without, it is built here. Also what a killed build left stale is
    taken up so.

    Args:
        deployment: ``flow/name``. Default: the setting; without one, loads that build in their own process.

    Raises:
        TriggerError: Prefect's API cannot be reached, or refused, or has no such deployment.
        BuildFailedError: something failed in a build here.
        LineageOrchError: the ledger, the manifest or dbt, as :meth:`Orchestrator.build` says.
    """
    deployment = deployment or orchestrator.settings.deployment
    try:
        found = reconcile(orchestrator, deployment=deployment)
    except (httpx.HTTPError, PrefectException) as error:
        raise TriggerError(
            f"Prefect's run history could not be read ({one_line(error)}); see PREFECT_API_URL"
        ) from error
    for line in found.lines() or ["No load was lost."]:
        progress(line)
    plan = orchestrator.plan()
    if plan.is_empty and plan.next_due is None:
        progress("Nothing is stale.")
    elif deployment is None:
        report = orchestrator.build(who="lineage-orch reconcile", progress=progress)
        progress(report.summary())
        report.raise_for_failures()
    else:
        # Held nodes too: that run schedules the wake-up, if it was lost.
        run = launch_build(deployment, logging.getLogger(__name__))
        progress(f"Run {run.name!r} of {deployment} builds what is stale.")
    return found


def _unknown_to(orchestrator: Orchestrator, loads: list[CompletedLoad]) -> list[CompletedLoad]:
    if not loads:
        return []
    # One update of a run is enough to know that its hook ran: it may have marked only some of its sources.
    known = orchestrator.ledger.known_updates(load.state_id for load in loads)
    return [load for load in loads if load.state_id not in known]
